package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/rutter-project/rutter/schemas"
)

// Redacted is what a Writer hides whatever it is given.
const Redacted = "secrets"

// Writer gathers a bundle, compressed, in memory; WriteTo writes it. The values of
// Secrets never get into it.
type Writer struct {
	state, events, later *section
	gaps                 int
	last                 place // of the last event
}

// place is where something stands in the log.
type place struct {
	rev int64
	ord int
}

// section is a part in the making.
type section struct {
	name    string
	body    bytes.Buffer
	zip     *zstd.Encoder
	records int
	plain   int64
}

// NewWriter begins a bundle.
func NewWriter() (*Writer, error) {
	w := &Writer{}
	var err error
	if w.state, err = newSection(sectionState); err != nil {
		return nil, err
	}
	if w.events, err = newSection(sectionEvents); err != nil {
		return nil, err
	}
	w.later, err = newSection(sectionLater)
	return w, err
}

func newSection(name string) (*section, error) {
	s := &section{name: name}
	var err error
	s.zip, err = zstd.NewWriter(&s.body, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return s, nil
}

var errTooLarge = fmt.Errorf("bundle: more than %d bytes in a section; choose a shorter span, or less of it", maxSection)

func (s *section) add(e schemas.Event) error {
	e.Object = schemas.WithoutValues(e.Key, e.Object)
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("bundle: %s of revision %d: %w", e.Key, e.Rev, err)
	}
	line = append(line, '\n')
	s.records++
	if s.plain += int64(len(line)); s.plain > maxSection {
		return errTooLarge
	}
	_, err = s.zip.Write(line)
	return err
}

// Object adds an object as it was at the beginning.
func (w *Writer) Object(e schemas.Event) error {
	if len(schemas.WithoutValues(e.Key, e.Object)) == 0 {
		return nil // a Secret that can't be read has nothing to show
	}
	return w.state.add(e)
}

// Later adds an object as it was at a later instant, a revision that goes into Header.Later.
// They come one instant after the other.
func (w *Writer) Later(at int64, e schemas.Event) error {
	if len(schemas.WithoutValues(e.Key, e.Object)) == 0 {
		return nil
	}
	e.Resync = at
	return w.later.add(e)
}

// Event adds a change, or a gap. They come in the order of the log.
func (w *Writer) Event(e schemas.Event) error {
	at := place{known(e), e.Ord}
	if at.rev < w.last.rev {
		return fmt.Errorf("bundle: the event of revision %d comes after one of revision %d", at.rev, w.last.rev)
	}
	w.last = at
	if e.Type == schemas.Gap {
		w.gaps++
	}
	return w.events.add(e)
}

// known is the revision as of which a change is known: those that a resync told are known
// together.
func known(e schemas.Event) int64 { return max(e.Rev, e.Resync) }

// WriteTo closes the bundle and writes it. Of the header, the caller fills what only he
// knows; it is returned as written.
func (w *Writer) WriteTo(out io.Writer, h Header) (Header, error) {
	h.Gaps, h.Sections = w.gaps, nil
	sections := []*section{w.state, w.events}
	if len(h.Later) > 0 {
		sections = append(sections, w.later)
	}
	for _, s := range sections {
		if err := s.zip.Close(); err != nil {
			return Header{}, fmt.Errorf("bundle: section %s: %w", s.name, err)
		}
		sum := sha256.Sum256(s.body.Bytes())
		h.Sections = append(h.Sections, Section{Name: s.name, Records: s.records, Bytes: int64(s.body.Len()), Plain: s.plain, SHA256: hex.EncodeToString(sum[:])})
	}
	if err := h.check(); err != nil {
		return Header{}, fmt.Errorf("bundle: %w", err)
	}
	head, err := h.preamble()
	if err != nil {
		return Header{}, err
	}
	whole := sha256.New()
	to := io.MultiWriter(out, whole)
	_, err = to.Write(head)
	for _, s := range sections {
		if err == nil {
			_, err = to.Write(s.body.Bytes())
		}
	}
	if err == nil {
		_, err = io.WriteString(out, digestLine([sha256.Size]byte(whole.Sum(nil))))
	}
	if err != nil {
		return Header{}, fmt.Errorf("bundle: %w", err)
	}
	return h, nil
}

var (
	errNoSpan    = errors.New("the span has no beginning; a bundle begins at a revision above 0")
	errBackwards = errors.New("the span ends before it begins")
)

// check refuses headers that say nothing sensible.
func (h Header) check() error {
	switch {
	case h.From.Rev < 1:
		return errNoSpan
	case h.To.Rev < h.From.Rev || h.To.Time.Before(h.From.Time):
		return errBackwards
	default:
		return nil
	}
}
