package differential

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"time"
)

// mask replaces what no two servers say alike: identities, times, revisions, names that
// were drawn.
type mask struct {
	host  string
	known variables
	now   time.Time
}

var (
	uuid      = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	timestamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)
	age       = regexp.MustCompile(`^(\d+[smhdy])+$`)
	jwt       = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]*`)
	revision  = regexp.MustCompile(`((?:resource version|resourceVersion|revision|current|requested|StorageError: invalid object)[^0-9]{0,4})\d{2,}`)
	drawn     = regexp.MustCompile(`(kube-api-access-)[a-z0-9]{5}\b`)
	digest    = regexp.MustCompile(`(X509SHA256=)[0-9a-f]{64}`)
	podDiff   = regexp.MustCompile(`(?s)(pod updates may not change fields.*?)\n.*`) // go-cmp varies its output on purpose
	stored    = regexp.MustCompile(`(in record \()\d+\)`)
	documents = regexp.MustCompile(`(hash=)[0-9A-F]{32,}`)
	address   = regexp.MustCompile(`^(https://)?[0-9.]+:\d+\b`)
	// recent is how far from now a time is one that a server has taken.
	recent = 48 * time.Hour
)

// ignoredHeaders tell nothing of the answer.
var ignoredHeaders = map[string]bool{
	"Date": true, "Content-Length": true, // differs with the length of revisions and names
}

func (m mask) headers(h http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range h {
		if ignoredHeaders[name] {
			continue
		}
		switch name { // of documents whose content is compared, and of the process
		case "Etag", "Last-Modified", "Process-Start-Time-Unix":
			values = []string{"<" + strings.ToLower(name) + ">"}
		}
		sort.Strings(values)
		out[name] = m.text(strings.Join(values, " | "))
	}
	return out
}

func (m mask) value(key string, v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, item := range x {
			out[m.text(k)] = m.value(k, item)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, item := range x {
			out[i] = m.value(key, item)
		}
		if key == "nonResourceRules" || key == "resourceRules" {
			sort.Slice(out, func(i, j int) bool { return hash(out[i]) < hash(out[j]) }) // upstream's order is that of a map
		}
		return out
	case string:
		return m.field(key, x)
	case json.Number:
		for name, value := range m.known {
			if len(value) > 3 && value == x.String() {
				return "<" + name + ">"
			}
		}
	}
	return v
}

// field masks a string by the name of its field, and by what it looks like.
func (m mask) field(key, s string) any {
	switch {
	case s == "":
		return s
	case key == "resourceVersion" && s != "0":
		return "<rv>"
	case key == "continue":
		return m.continued(s)
	case key == "cells" && age.MatchString(s):
		return "<age>"
	case (key == "serverAddress" || key == "jwks_uri") && address.MatchString(s):
		return address.ReplaceAllString(s, "$1<address>")
	}
	return m.text(s)
}

// continued shows what is in a continue token but the revision.
func (m mask) continued(s string) any {
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return "not base64: " + s
	}
	var token map[string]any
	if json.Unmarshal(data, &token) != nil {
		return "not JSON: " + string(data)
	}
	if rv, ok := token["rv"].(float64); ok && rv > 0 {
		token["rv"] = "<rv>"
	}
	return token
}

func (m mask) text(s string) string {
	s = strings.ReplaceAll(s, m.host, "<host>")
	s = strings.ReplaceAll(s, strings.TrimPrefix(m.host, "https://"), "<host>")
	names := make([]string, 0, len(m.known))
	for name, value := range m.known {
		if len(value) > 3 {
			names = append(names, name)
		}
	}
	sort.Slice(names, func(i, j int) bool { // longest first: one may be part of another
		a, b := m.known[names[i]], m.known[names[j]]
		return len(a) > len(b) || len(a) == len(b) && names[i] < names[j]
	})
	s = uuid.ReplaceAllString(s, "<uuid>")
	for _, name := range names {
		if value := m.known[name]; !strings.ContainsRune(value, '<') {
			s = replaceWord(s, value, "<"+name+">")
		}
	}
	s = jwt.ReplaceAllString(s, "<jwt>")
	s = drawn.ReplaceAllString(s, "$1<drawn>")
	s = digest.ReplaceAllString(s, "$1<digest>")
	s = podDiff.ReplaceAllString(s, "$1")
	s = stored.ReplaceAllString(s, "$1<rv>)")
	s = documents.ReplaceAllString(s, "$1<hash>")
	s = revision.ReplaceAllString(s, "$1<rv>")
	return timestamp.ReplaceAllStringFunc(s, func(t string) string {
		at, err := time.Parse(time.RFC3339Nano, t)
		if err != nil || at.Sub(m.now).Abs() > recent {
			return t
		}
		return "<time>"
	})
}

// replaceWord replaces what is not part of a longer word.
func replaceWord(s, old, by string) string {
	isWord := func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	var out strings.Builder
	for {
		i := strings.Index(s, old)
		if i < 0 {
			out.WriteString(s)
			return out.String()
		}
		end := i + len(old)
		if i > 0 && isWord(s[i-1]) || end < len(s) && isWord(s[end]) {
			out.WriteString(s[:end])
		} else {
			out.WriteString(s[:i] + by)
		}
		s = s[end:]
	}
}

// outlineOf keeps the first two levels of a document and hashes what is below, so that a
// difference tells where it is without the record holding megabytes.
func outlineOf(v any) any { return outlineBelow(v, 2) }

func outlineBelow(v any, depth int) any {
	switch x := v.(type) {
	case map[string]any:
		if depth == 0 {
			return hash(v)
		}
		out := make(map[string]any, len(x))
		for k, item := range x {
			out[k] = outlineBelow(item, depth-1)
		}
		return out
	case []any:
		return hash(v)
	default:
		return v
	}
}

func hash(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}
