package schemas

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// CauseHTTPHeader is the request header in which a component names the
// revisions it acts upon, comma-separated and ascending.
const CauseHTTPHeader = "Rutter-Cause"

// MaxCauses bounds how many revisions one write can name. Of more, the newest
// are kept: they are the ones that triggered the write.
const MaxCauses = 16

type causeKey struct{}

// WithCause returns a context whose writes name revs as their cause, in
// addition to those the context has already.
func WithCause(ctx context.Context, revs ...int64) context.Context {
	merged := normalCauses(append(slices.Clone(CauseOf(ctx)), revs...))
	if len(merged) == 0 {
		return ctx
	}
	return context.WithValue(ctx, causeKey{}, merged)
}

// CauseOf lists the revisions that WithCause put into the context, ascending.
// The caller must not change the result.
func CauseOf(ctx context.Context) []int64 {
	revs, _ := ctx.Value(causeKey{}).([]int64)
	return revs
}

// FormatCause writes revisions as CauseHTTPHeader has them.
func FormatCause(revs []int64) string {
	var dst []byte
	for i, rev := range revs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, rev, 10)
	}
	return string(dst)
}

// ParseCause reads what FormatCause writes. Spaces are allowed; the result is
// ascending, without repetition, and at most MaxCauses long.
func ParseCause(s string) ([]int64, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var revs []int64
	for part := range strings.SplitSeq(s, ",") {
		rev, err := strconv.ParseInt(strings.TrimSpace(part), 10, 64)
		if err != nil || rev <= 0 {
			return nil, fmt.Errorf("cause %q: %q is no revision", s, part)
		}
		revs = append(revs, rev)
	}
	return normalCauses(revs), nil
}

// normalCauses sorts, drops repetitions and anything that is no revision, and
// keeps the newest MaxCauses.
func normalCauses(revs []int64) []int64 {
	slices.Sort(revs)
	revs = slices.Compact(revs)
	for len(revs) > 0 && revs[0] <= 0 {
		revs = revs[1:]
	}
	if extra := len(revs) - MaxCauses; extra > 0 {
		revs = revs[extra:]
	}
	return revs
}

// CauseTransport puts the cause found in a request's context onto the request.
// A cause that the caller has set itself is left alone.
func CauseTransport(next http.RoundTripper) http.RoundTripper {
	return causeTransport{next: next}
}

type causeTransport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper. The caller's request is not changed.
func (t causeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	revs := CauseOf(req.Context())
	if len(revs) == 0 || req.Header.Get(CauseHTTPHeader) != "" {
		return t.next.RoundTrip(req)
	}
	clone := req.Clone(req.Context())
	if clone.Header == nil {
		clone.Header = http.Header{}
	}
	clone.Header.Set(CauseHTTPHeader, FormatCause(revs))
	return t.next.RoundTrip(clone)
}

// WrappedRoundTripper lets client-go look through the wrapper.
func (t causeTransport) WrappedRoundTripper() http.RoundTripper { return t.next }
