package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// better says in which direction a figure is good.
type better bool

const (
	less better = false
	more better = true
)

// row is one figure of both sides.
type row struct {
	what, unit       string
	rutter, upstream float64
	good             better
	alone            bool   // upstream has no counterpart
	aim              string // what the design asks for, of a figure that is alone
}

// ratio is how many times better Rutter is.
func (r row) ratio() float64 {
	if r.good == more {
		return r.rutter / r.upstream
	}
	return r.upstream / r.rutter
}

// table collects figures in the order in which they are measured.
type table struct{ rows []row }

// add takes the figures of both sides, Rutter's first.
func (t *table) add(what, unit string, good better, figures ...float64) {
	r := row{what: what, unit: unit, rutter: figures[0], upstream: figures[1], good: good}
	t.rows = append(t.rows, r)
	progress("%s, %s: %s against %s", what, unit, number(r.rutter), number(r.upstream))
}

// write prints Markdown.
func (t *table) write(w io.Writer) error {
	if _, err := fmt.Fprint(w, "| what | unit | Rutter | kube-apiserver + etcd | better by |\n|---|---|---|---|---|\n"); err != nil {
		return err
	}
	for _, r := range t.rows {
		if r.alone {
			if _, err := fmt.Fprintf(w, "| %s | %s | %s | - | %s |\n", r.what, r.unit, number(r.rutter), r.aim); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(w, "| %s | %s | %s | %s | %.1fx |\n", r.what, r.unit, number(r.rutter), number(r.upstream), r.ratio()); err != nil {
			return err
		}
	}
	return nil
}

// number has three digits that count.
func number(f float64) string {
	if f == 0 || math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Sprint(f)
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(f)))))
	return fmt.Sprintf("%.*f", digits, f)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile is the value that a part q of all do not exceed.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[int(q*float64(len(all)-1)+0.5)]
}
