package health

import (
	"strconv"
	"strings"
)

// Sample is one value of a metric with one label at most.
type Sample struct {
	Label string // the value of its first label
	Value float64
}

// Samples finds the values of a metric in Prometheus' text format. Lines that can't be read
// are no values.
func Samples(text, metric string) []Sample {
	var out []Sample
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), metric)
		if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '{') {
			continue
		}
		var s Sample
		if rest[0] == '{' {
			labels, after, closed := strings.Cut(rest[1:], "} ")
			_, quoted, named := strings.Cut(labels, `="`)
			value, _, ended := strings.Cut(quoted, `"`)
			if !closed || !named || !ended {
				continue
			}
			s.Label, rest = value, after
		}
		number, _, _ := strings.Cut(strings.TrimSpace(rest), " ") // a time may follow
		value, err := strconv.ParseFloat(number, 64)
		if err != nil {
			continue
		}
		s.Value = value
		out = append(out, s)
	}
	return out
}

// Gauge is the one value of a metric without labels.
func Gauge(text, metric string) (float64, bool) {
	all := Samples(text, metric)
	if len(all) != 1 {
		return 0, false
	}
	return all[0].Value, true
}
