package schemas

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Marks is the ConfigMap that holds the named marks of a cluster: a name, and the revision
// that it stands for as "rev-N". Whoever may write it may set marks.
var Marks = Key{Resource: "configmaps", Namespace: "kube-system", Name: "rutter-marks"}

// maxMark is how long a mark's name may be.
const maxMark = 63

// markPrefix begins the value of a mark, and every instant that is a revision.
const markPrefix = "rev-"

// markName begins with a letter, which no time and no duration does, and has nothing in
// it that ends an instant in a path or a span.
var markName = regexp.MustCompile(`^[a-z][a-z0-9]*([-._][a-z0-9]+)*$`)

// reserved are words that mean an instant to people or a command to rutter mark.
var reserved = []string{
	"now", "noon", "midnight", "today", "yesterday", "tomorrow", "oldest", "newest", "latest", "first", "last", "list", "delete",
}

// ErrMark says that a mark does not stand for a revision.
var ErrMark = errors.New("not the revision of a mark")

// CheckMark refuses names that a mark can't have, lest they be taken for other instants.
func CheckMark(name string) error {
	switch {
	case len(name) > maxMark:
		return fmt.Errorf("a mark's name has at most %d characters", maxMark)
	case !markName.MatchString(name):
		return errors.New("a mark's name begins with a letter and has small letters, digits, and single - . _ between them")
	case strings.HasPrefix(name, markPrefix), slices.Contains(reserved, name):
		return fmt.Errorf("%q has a meaning of its own", name)
	default:
		return nil
	}
}

// MarkValue is how a mark is kept.
func MarkValue(rev int64) string { return markPrefix + strconv.FormatInt(rev, 10) }

// ParseMark reads what MarkValue has written.
func ParseMark(value string) (int64, error) {
	digits, ok := strings.CutPrefix(value, markPrefix)
	rev, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || rev < 1 || digits[0] == '+' {
		return 0, fmt.Errorf("%q: %w; want %sN", value, ErrMark, markPrefix)
	}
	return rev, nil
}

// MarksOf reads the marks out of their ConfigMap: values by name.
func MarksOf(object []byte) (map[string]string, error) {
	var config struct {
		Data map[string]string `json:"data"`
	}
	if err := json.Unmarshal(object, &config); err != nil {
		return nil, fmt.Errorf("%s: %w", Marks, err)
	}
	return config.Data, nil
}
