// Package logfile turns the raw output of containers into log files in the CRI
// format and reads them back.
//
// The container's shim appends stdout and stderr to two plain files by itself;
// no process of ours stands between. A Pump reads these files, writes whole
// lines to the log and notes in a record how far both sides have got. Nothing
// is lost and nothing is written twice when the agent is killed at any point:
// on the next start the log is cut back to the record's size and the raw
// output is read from the record's offsets. Raw output that is in the log is
// given back to the file system by punching holes, so it takes no space.
//
// A Pump has one goroutine, the caller of Run. Its other methods may be called
// from any goroutine.
package logfile

import (
	"bytes"
	"errors"
	"time"
)

// Stream names a container's output.
type Stream string

// The two streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// MaxLine is the longest run of bytes in one log line; longer lines of the
// container are split and marked partial.
const MaxLine = 16 << 10

// stampLayout is RFC 3339 with all nine digits, so that columns align.
const stampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// appendLines formats the lines at the start of raw and returns how many bytes
// of raw they took. A line without end stays behind unless it is too long or
// last is set; then it is marked partial.
func appendLines(dst, raw []byte, s Stream, now time.Time, last bool) (out []byte, taken int) {
	for len(raw) > 0 {
		end := bytes.IndexByte(raw[:min(len(raw), MaxLine+1)], '\n')
		switch {
		case end >= 0:
			dst = appendLine(dst, raw[:end], s, now, 'F')
			end++
		case len(raw) > MaxLine:
			end = MaxLine
			dst = appendLine(dst, raw[:end], s, now, 'P')
		case last:
			end = len(raw)
			dst = appendLine(dst, raw, s, now, 'P') // so that readers add no line end
		default:
			return dst, taken
		}
		taken += end
		raw = raw[end:]
	}
	return dst, taken
}

func appendLine(dst, line []byte, s Stream, now time.Time, tag byte) []byte {
	dst = now.UTC().AppendFormat(dst, stampLayout)
	dst = append(dst, ' ')
	dst = append(dst, s...)
	dst = append(dst, ' ', tag, ' ')
	dst = append(dst, line...)
	return append(dst, '\n')
}

// Line is one parsed line of a log.
type Line struct {
	Time    time.Time
	Stream  Stream
	Partial bool
	Text    []byte // without line end; aliases the input
}

var errLine = errors.New("not a CRI log line")

// ParseLine reads one line of a log, with or without its line end.
func ParseLine(b []byte) (Line, error) {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	stamp, rest, ok := bytes.Cut(b, []byte{' '})
	if !ok {
		return Line{}, errLine
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Line{}, errLine
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return Line{}, errLine
	}
	tag, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return Line{}, errLine
	}
	l := Line{Time: at, Text: text}
	switch s := Stream(stream); s {
	case Stdout, Stderr:
		l.Stream = s
	default:
		return Line{}, errLine
	}
	switch first, _, _ := bytes.Cut(tag, []byte{':'}); string(first) { // further tags may follow a colon
	case "F":
	case "P":
		l.Partial = true
	default:
		return Line{}, errLine
	}
	return l, nil
}
