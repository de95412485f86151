package serve

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// printed is a table of one row of an object made an hour before noon.
func printed(cells ...any) *metav1.Table {
	made := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(noon.Add(-time.Hour))}}
	return &metav1.Table{
		ColumnDefinitions: []metav1.TableColumnDefinition{{Name: "Name"}, {Name: "Restarts"}, {Name: "Age"}},
		Rows: []metav1.TableRow{{Cells: cells, Object: runtime.RawExtension{Object: made},
			Conditions: []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: "Succeeded"}}}},
	}
}

func TestRowsKeepTheirAge(t *testing.T) {
	r, err := newRow(printed("a<b", 3, "60m"), []time.Time{noon.Add(-time.Hour)}, noon, noon)
	if err != nil {
		t.Fatal(err)
	}
	const rest = `"],"conditions":[{"type":"Completed","status":"True","reason":"Succeeded"}],"object":`
	for later, want := range map[time.Duration]string{0: "60m", 5 * time.Hour: "6h", 48 * time.Hour: "2d1h"} {
		if got := string(r.append(nil, noon.Add(later))); got != `{"cells":["a\u003cb",3,"`+want+rest {
			t.Errorf("after %s: %s", later, got)
		}
	}
	if !r.holds(noon.Add(1000 * time.Hour)) {
		t.Error("a row with nothing but an age does not hold")
	}
}

func TestRowsHoldUntilACellChanges(t *testing.T) {
	created, restarted := noon.Add(-time.Hour), noon.Add(-(25*time.Minute + 10*time.Second))
	for name, tc := range map[string]struct {
		cells  []any
		before time.Time
		from   time.Time
		until  time.Time
	}{
		"restarted minutes ago":        {[]any{"a", "2 (25m ago)", "60m"}, noon, noon.Add(-10 * time.Second), noon.Add(50 * time.Second)},
		"changed while it was printed": {[]any{"a", "2 (24m ago)", "60m"}, noon.Add(-11 * time.Second), noon.Add(-11 * time.Second), noon.Add(-11 * time.Second)},
		"the age is not what it seems": {[]any{"a", "1", "61m"}, noon, time.Time{}, time.Time{}},
		"an age in another column":     {[]any{"a", "60m", "x"}, noon, noon, noon.Add(time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := newRow(printed(tc.cells...), []time.Time{created, restarted}, tc.before, noon)
			if err != nil || !r.from.Equal(tc.from) || !r.until.Equal(tc.until) {
				t.Errorf("holds from %s until %s, want from %s until %s: %v", r.from, r.until, tc.from, tc.until, err)
			}
			if !tc.from.IsZero() && (r.holds(tc.from.Add(-1)) || r.holds(tc.until) || tc.from.Before(tc.until) && !r.holds(tc.from)) {
				t.Error("does not hold just then") // the past asks for earlier instants
			}
		})
	}
}

func TestTimesIn(t *testing.T) {
	got := timesIn([]byte(`{"a":"2026-11-25T12:00:00Z","b":["Z","xZ","2026-11-25T12:00:00.000001Z"],"c":"2026-99-25T12:00:00Z","d":"2026-11-25T12:00:00+01:00"}Z"`))
	if want := []time.Time{noon, noon.Add(time.Microsecond)}; !slices.EqualFunc(got, want, time.Time.Equal) {
		t.Errorf("%v, want %v", got, want)
	}
}
