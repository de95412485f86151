package serve

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// row is a row of a table up to its object, as JSON, but for the age: how old something
// is is the only thing that printers read off the clock. A row whose other cells tell
// how long ago something was holds until one of these changes.
type row struct {
	json    []byte
	age     int       // where in json the age belongs; less than zero for nowhere
	created time.Time // from when the age counts
	from    time.Time // when it begins to hold; zero for always: an instant of the past may ask
	until   time.Time // when it ends to hold; zero for never
}

// rowOverhead is about what a row takes besides its JSON.
const rowOverhead = 96

func (r *row) size() int { return len(r.json) + rowOverhead }

func (r *row) holds(now time.Time) bool {
	return !now.Before(r.from) && (r.until.IsZero() || now.Before(r.until))
}

// append appends the row as of now; the object has to follow, and a closing brace.
func (r *row) append(dst []byte, now time.Time) []byte {
	if r.age < 0 {
		return append(dst, r.json...)
	}
	dst = append(dst, r.json[:r.age]...)
	dst = append(dst, duration.HumanDuration(now.Sub(r.created))...)
	return append(dst, r.json[r.age:]...)
}

// newRow makes a row of what was printed between two instants. times are those that the
// object holds.
func newRow(printed *metav1.Table, times []time.Time, before, after time.Time) (*row, error) {
	r := &row{age: -1}
	cells := printed.Rows[0].Cells
	age := ageCell(printed, before, after)
	r.json = append(r.json, `{"cells":[`...)
	for n, cell := range cells {
		if n > 0 {
			r.json = append(r.json, ',')
		}
		if n == age.cell {
			r.json = append(r.json, '"')
			r.age, r.created = len(r.json), age.created
			r.json = append(r.json, '"')
			continue
		}
		text, err := json.Marshal(cell)
		if err != nil {
			return nil, err
		}
		r.json = append(r.json, text...)
		if words, ok := cell.(string); ok {
			r.limit(words, times, before, after)
		}
	}
	r.json = append(r.json, ']')
	if conditions := printed.Rows[0].Conditions; len(conditions) > 0 {
		text, err := json.Marshal(conditions)
		if err != nil {
			return nil, err
		}
		r.json = append(append(r.json, `,"conditions":`...), text...)
	}
	r.json = append(r.json, `,"object":`...)
	return r, nil
}

// aged is which cell tells an age, and since when.
type aged struct {
	cell    int
	created time.Time
}

// ageCell finds the cell that is the age of the object, if there is one.
func ageCell(printed *metav1.Table, before, after time.Time) aged {
	about, ok := printed.Rows[0].Object.Object.(metav1.Object)
	if !ok {
		return aged{cell: -1}
	}
	created := about.GetCreationTimestamp().Time
	for n, c := range printed.ColumnDefinitions {
		if c.Name != "Age" || n >= len(printed.Rows[0].Cells) || created.IsZero() || created.After(before) {
			continue
		}
		text := printed.Rows[0].Cells[n]
		if text == duration.HumanDuration(before.Sub(created)) && text == duration.HumanDuration(after.Sub(created)) {
			return aged{n, created}
		}
	}
	return aged{cell: -1}
}

// limit bounds the time in which the words of a cell are the same.
func (r *row) limit(words string, times []time.Time, before, after time.Time) {
	for _, t := range times {
		early, late := duration.HumanDuration(before.Sub(t)), duration.HumanDuration(after.Sub(t))
		if !strings.Contains(words, early) && !strings.Contains(words, late) {
			continue
		}
		from, until := before, before // never holds
		if early == late {
			from, until = unchanged(t, after)
		}
		if from.After(r.from) {
			r.from = from
		}
		if r.until.IsZero() || until.Before(r.until) {
			r.until = until
		}
	}
}

// unchanged is between when and when a text that tells how long ago t was is as it is
// now, at least.
func unchanged(t, now time.Time) (from, until time.Time) {
	ago := now.Sub(t)
	unit := time.Hour
	switch {
	case ago < 0:
		return now, now
	case ago < 10*time.Minute:
		unit = time.Second
	case ago < 8*time.Hour:
		unit = time.Minute
	}
	from = t.Add(ago.Truncate(unit))
	return from, from.Add(unit)
}

const (
	wholeSeconds = len(`2006-01-02T15:04:05Z`)
	microSeconds = len(`2006-01-02T15:04:05.000000Z`)
)

// timesIn are the times that a stored object holds.
func timesIn(object []byte) []time.Time {
	var out []time.Time
	for rest := object; ; {
		i := bytes.Index(rest, []byte(`Z"`))
		if i < 0 {
			return out
		}
		for _, size := range []int{wholeSeconds, microSeconds} {
			if i+1 < size+1 || rest[i-size] != '"' {
				continue
			}
			if t, err := time.Parse(time.RFC3339Nano, string(rest[i+1-size:i+1])); err == nil {
				out = append(out, t)
			}
		}
		rest = rest[i+2:]
	}
}
