package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/rutter-project/rutter/schemas"
)

// What a reader takes, so that a file can't fill the memory.
const (
	maxHeader  = 1 << 20
	maxSection = 1 << 30
	maxWindow  = 64 << 20
	// maxBegin holds the longest header with what is around it.
	maxBegin = maxHeader + 1<<10
)

// Error says what is wrong with a file, and where.
type Error struct {
	// At is the first byte of the part that is wrong, To the one behind it; both 0 for the
	// whole file.
	At, To int64
	Part   string
	Reason string
}

// Error implements error.
func (e *Error) Error() string {
	if e.To == 0 {
		return "not a good bundle: " + e.Reason
	}
	return fmt.Sprintf("not a good bundle: %s (bytes %d to %d) %s", e.Part, e.At, e.To, e.Reason)
}

// reader reads a bundle from its bytes.
type reader struct {
	file   []byte
	header Header
	begin  int64 // of the sections
}

// Read reads a whole bundle. What is cut, altered, or makes no sense is refused by an
// *Error.
func Read(file []byte) (*Bundle, error) {
	r := reader{file: file}
	if err := r.readHeader(); err != nil {
		return nil, err
	}
	bodies, err := r.sections()
	if err != nil {
		return nil, err
	}
	b := &Bundle{Header: r.header}
	if b.State, err = bodies[sectionState].events(); err != nil {
		return nil, err
	}
	if b.Events, err = bodies[sectionEvents].events(); err != nil {
		return nil, err
	}
	if later, ok := bodies[sectionLater]; ok {
		if b.Later, err = later.events(); err != nil {
			return nil, err
		}
	}
	return b, b.check()
}

// ReadFrom is Read of a file that is not in memory yet, and says how long it is. Of what is
// no bundle, or is longer than its header says, it reads no more than it takes to see that.
func ReadFrom(file io.Reader) (b *Bundle, size int64, err error) {
	text, err := io.ReadAll(io.LimitReader(file, maxBegin))
	if err != nil {
		return nil, 0, err
	}
	r := reader{file: text}
	if err := r.readHeader(); err != nil {
		return nil, 0, err
	}
	left := r.begin + int64(digestLength) + 1 - int64(len(text)) // one byte tells that something follows
	for _, s := range r.header.Sections {
		if s.Bytes < 0 || s.Bytes > maxSection {
			break // which sections refuses
		}
		left += s.Bytes
	}
	if left > 0 {
		rest, err := io.ReadAll(io.LimitReader(file, left))
		if err != nil {
			return nil, 0, err
		}
		text = append(text, rest...)
	}
	b, err = Read(text)
	return b, int64(len(text)), err
}

// line takes the next line, with its end.
func line(text []byte, limit int) ([]byte, bool) {
	i := bytes.IndexByte(text[:min(len(text), limit)], '\n')
	if i < 0 {
		return nil, false
	}
	return text[:i+1], true
}

func (r *reader) readHeader() error {
	if err := r.readMagic(); err != nil {
		return err
	}
	magic, _ := line(r.file, maxHeader)
	rest := r.file[len(magic):]
	text, ok := line(rest, maxHeader)
	at := int64(len(magic))
	if !ok && len(rest) >= maxHeader {
		return &Error{At: at, To: at + maxHeader, Part: "the header", Reason: "has no end"}
	}
	if !ok || len(rest) < len(text)+digestLength {
		return &Error{Reason: fmt.Sprintf("it is cut off in its header, after %d bytes", len(r.file))}
	}
	r.begin = at + int64(len(text)+digestLength)
	bad := func(reason string) error {
		return &Error{At: at, To: at + int64(len(text)), Part: "the header", Reason: reason}
	}
	if string(rest[len(text):len(text)+digestLength]) != digestLine(sha256.Sum256(r.file[:len(magic)+len(text)])) {
		return bad("is altered: its digest is another one")
	}
	if err := json.Unmarshal(text, &r.header); err != nil {
		return bad("can't be read: " + err.Error())
	}
	if err := r.header.check(); err != nil {
		return bad("makes no sense: " + err.Error())
	}
	return nil
}

func (r *reader) readMagic() error {
	const longest = len(magicPrefix) + 8
	first, ok := line(r.file, longest)
	head := r.file[:min(len(r.file), len(magicPrefix))]
	if !strings.HasPrefix(magicPrefix, string(head)) || (!ok && len(r.file) >= longest) {
		return &Error{Reason: "it does not begin with \"" + magicPrefix + "\""}
	}
	if !ok {
		return &Error{Reason: fmt.Sprintf("it is cut off in its first line, after %d bytes", len(r.file))}
	}
	format, err := strconv.Atoi(string(first[len(magicPrefix) : len(first)-1]))
	switch {
	case err != nil || format < 1:
		return &Error{To: int64(len(first)), Part: "the first line", Reason: "names no format"}
	case format != Format:
		return &Error{Reason: fmt.Sprintf("it is of format %d, and this program reads format %d; open it with the version of Rutter that its second line names", format, Format)}
	}
	return nil
}

// body is a section as it lies in the file.
type body struct {
	Section
	at    int64
	bytes []byte
}

// sections checks everything by its digests.
func (r *reader) sections() (map[string]body, error) {
	bodies := map[string]body{}
	at := r.begin
	for _, s := range r.header.Sections {
		if s.Bytes < 0 || s.Bytes > maxSection || s.Plain < 0 || s.Plain > maxSection || s.Records < 0 {
			return nil, &Error{Reason: fmt.Sprintf("its section %q has a size that makes no sense", s.Name)}
		}
		end := at + s.Bytes
		if end > int64(len(r.file)) {
			return nil, &Error{Reason: fmt.Sprintf("it is cut off in its section %q, which ends at byte %d: the file has %d", s.Name, end, len(r.file))}
		}
		b := body{Section: s, at: at, bytes: r.file[at:end]}
		if sum := sha256.Sum256(b.bytes); hex.EncodeToString(sum[:]) != s.SHA256 {
			return nil, b.bad("is altered: its digest is another one")
		}
		if _, twice := bodies[s.Name]; twice {
			return nil, b.bad("comes a second time")
		}
		bodies[s.Name] = b
		at = end
	}
	for _, name := range []string{sectionState, sectionEvents} {
		if _, ok := bodies[name]; !ok {
			return nil, &Error{Reason: fmt.Sprintf("it has no section %q", name)}
		}
	}
	return bodies, r.checkEnd(at)
}

func (r *reader) checkEnd(at int64) error {
	rest := r.file[at:]
	switch {
	case len(rest) < digestLength:
		return &Error{Reason: fmt.Sprintf("it is cut off in its last line, after %d bytes", len(r.file))}
	case len(rest) > digestLength:
		return &Error{At: at + int64(digestLength), To: int64(len(r.file)), Part: "something", Reason: "follows its end"}
	case string(rest) != digestLine(sha256.Sum256(r.file[:at])):
		return &Error{At: at, To: int64(len(r.file)), Part: "the last line", Reason: "is altered: the digest of the whole is another one"}
	default:
		return nil
	}
}

func (b body) bad(reason string) error {
	return &Error{At: b.at, To: b.at + b.Bytes, Part: fmt.Sprintf("section %q", b.Name), Reason: reason}
}

// events unpacks a section.
func (b body) events() ([]schemas.Event, error) {
	if b.Bytes == 0 && b.Records == 0 {
		return nil, nil
	}
	zip, err := zstd.NewReader(bytes.NewReader(b.bytes), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, b.bad("can't be unpacked: " + err.Error())
	}
	defer zip.Close()
	counted := &counter{r: io.LimitReader(zip, b.Plain+1)}
	lines := json.NewDecoder(counted)
	var events []schemas.Event
	for n := 1; ; n++ {
		var e schemas.Event
		err := lines.Decode(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, b.bad(fmt.Sprintf("can't be read at record %d: %v", n, err))
		}
		events = append(events, e)
	}
	if counted.n != b.Plain || len(events) != b.Records {
		return nil, b.bad(fmt.Sprintf("holds %d records in %d bytes, and the header says %d in %d", len(events), counted.n, b.Records, b.Plain))
	}
	return events, nil
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// check refuses what no log says.
func (b *Bundle) check() error {
	bad := func(part string, n int, reason string) error {
		return &Error{Reason: fmt.Sprintf("record %d of section %q %s", n+1, part, reason)}
	}
	seen := map[schemas.Key]bool{}
	for i, e := range b.State {
		switch {
		case !named(e.Key) || e.Type != schemas.Added || len(e.Object) == 0:
			return bad(sectionState, i, "is no object")
		case e.Rev < 1 || e.Rev > b.Header.From.Rev:
			return bad(sectionState, i, fmt.Sprintf("is of revision %d, after the beginning, %d", e.Rev, b.Header.From.Rev))
		case seen[e.Key]:
			return bad(sectionState, i, "tells of "+e.Key.String()+" a second time")
		}
		seen[e.Key] = true
	}
	last := b.Header.From.Rev
	for i, e := range b.Events {
		switch {
		case e.Type != schemas.Gap && !named(e.Key):
			return bad(sectionEvents, i, "names no object")
		case e.Type != schemas.Added && e.Type != schemas.Modified && e.Type != schemas.Deleted && e.Type != schemas.Gap:
			return bad(sectionEvents, i, fmt.Sprintf("is of type %q", e.Type))
		case known(e) < last:
			return bad(sectionEvents, i, fmt.Sprintf("is of revision %d, which comes before %d", known(e), last))
		case known(e) > b.Header.To.Rev:
			return bad(sectionEvents, i, fmt.Sprintf("is of revision %d, after the end, %d", known(e), b.Header.To.Rev))
		}
		last = known(e)
	}
	return b.checkLater()
}

// checkLater refuses states that are not of the header's instants, one after the other.
func (b *Bundle) checkLater() error {
	at := b.Header.From.Rev
	for _, i := range b.Header.Later {
		if i.Rev <= at || i.Rev > b.Header.To.Rev {
			return &Error{Reason: fmt.Sprintf("it has a later state at revision %d, between %d and %d", i.Rev, at, b.Header.To.Rev)}
		}
		at = i.Rev
	}
	instants, seen := b.Header.Later, map[schemas.Key]bool{}
	for n, e := range b.Later {
		for len(instants) > 0 && instants[0].Rev < e.Resync {
			instants, seen = instants[1:], map[schemas.Key]bool{}
		}
		if len(instants) == 0 || instants[0].Rev != e.Resync || e.Rev < 1 || e.Rev > e.Resync || !named(e.Key) || e.Type != schemas.Added || len(e.Object) == 0 || seen[e.Key] {
			return &Error{Reason: fmt.Sprintf("record %d of section %q is no object of a later state", n+1, sectionLater)}
		}
		seen[e.Key] = true
	}
	return nil
}

// named reports that a key names an object, in the form that Key.String can be read from.
func named(k schemas.Key) bool {
	back, err := schemas.ParseKey(k.String())
	return err == nil && back == k
}
