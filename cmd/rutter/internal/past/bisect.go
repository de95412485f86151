package past

import "slices"

// Bisection finds the first bad revision between a good and a bad one.
type Bisection struct {
	good, bad int64
	skipped   map[int64]bool
	lost      [][2]int64 // bounds of revisions that nobody can try, both excluded
}

// NewBisection begins between a good revision and a bad one after it.
func NewBisection(good, bad int64) *Bisection {
	return &Bisection{good: good, bad: bad, skipped: map[int64]bool{}}
}

// Next is the revision to try: the one nearest to the middle that was not skipped. It is
// false if there is none left.
func (b *Bisection) Next() (int64, bool) {
	middle := b.good + (b.bad-b.good)/2
	for d := int64(0); middle-d > b.good || middle+d < b.bad; d++ {
		for _, rev := range []int64{middle - d, middle + d} {
			if rev > b.good && rev < b.bad && !b.skipped[rev] && !b.isLost(rev) {
				return rev, true
			}
		}
	}
	return 0, false
}

// Good says that the revision is good.
func (b *Bisection) Good(rev int64) { b.good = rev }

// Bad says that the revision is bad.
func (b *Bisection) Bad(rev int64) { b.bad = rev }

// Skip says that the revision can't be judged.
func (b *Bisection) Skip(rev int64) { b.skipped[rev] = true }

// SkipBetween says that no revision after one and before another can be judged.
func (b *Bisection) SkipBetween(after, before int64) {
	b.lost = append(b.lost, [2]int64{after, before})
}

func (b *Bisection) isLost(rev int64) bool {
	return slices.ContainsFunc(b.lost, func(l [2]int64) bool { return l[0] < rev && rev < l[1] })
}

// Found are the bounds of the first bad revision: behind good, up to bad. It is bad if
// that directly follows good.
func (b *Bisection) Found() (good, bad int64) { return b.good, b.bad }

// Left is about how many more tries it takes.
func (b *Bisection) Left() int {
	n := 0
	for span := b.bad - b.good; span > 1; span = (span + 1) / 2 {
		n++
	}
	return n
}
