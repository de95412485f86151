package schemas

import (
	"fmt"
	"strings"
)

// Subjects of the bus. Every object has one canonical subject below "h."; every
// node has one literal route "n.<node>" that carries the pods bound to it. The
// live forms are republished on core NATS as soon as the stream has them.
const (
	SubjectRoot     = "h."
	RouteRoot       = "n."
	LiveRoot        = "live."
	ResyncSubject   = "h._relay.resync" // closing message of a resync: names the gap
	AllObjects      = "h.>"             // filter for every canonical subject
	AllRoutes       = "n.*"             // filter for every node's route
	AnyToken        = "*"               // in a Key given to Filter: any value
	emptyToken      = "_"
	subjectTokens   = 5
	upperHexDigits  = "0123456789ABCDEF"
	escapedByteSize = len("%XX")
)

// Subject is the object's canonical subject,
// "h.<group>.<resource>.<namespace>.<name>" with escaped tokens and "_" for an
// empty one.
func (k Key) Subject() string {
	dst := make([]byte, 0, len(SubjectRoot)+len(k.Group)+len(k.Resource)+len(k.Namespace)+len(k.Name)+8)
	dst = append(dst, SubjectRoot...)
	for i, token := range [...]string{k.Group, k.Resource, k.Namespace, k.Name} {
		if i > 0 {
			dst = append(dst, '.')
		}
		dst = appendToken(dst, token)
	}
	return string(dst)
}

// ParseSubject turns a canonical subject back into the Key it was made from.
// Only the exact form that Subject writes is accepted, so that one object never
// has two subjects.
func ParseSubject(subject string) (Key, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != subjectTokens || tokens[0]+"." != SubjectRoot {
		return Key{}, fmt.Errorf("subject %q: %w", subject, ErrNotObject)
	}
	var parts [subjectTokens - 1]string
	for i, token := range tokens[1:] {
		part, ok := parseToken(token)
		if !ok {
			return Key{}, fmt.Errorf("subject %q: bad token %q: %w", subject, token, ErrNotObject)
		}
		parts[i] = part
	}
	if parts[1] == "" || parts[3] == "" {
		return Key{}, fmt.Errorf("subject %q: %w", subject, ErrNotObject)
	}
	return Key{Group: parts[0], Resource: parts[1], Namespace: parts[2], Name: parts[3]}, nil
}

// SubjectPrefix is the filter for all objects of a resource in one namespace;
// namespace "" means all namespaces, and objects of cluster scope.
func SubjectPrefix(group, resource, namespace string) string {
	dst := append([]byte(nil), SubjectRoot...)
	dst = append(appendToken(dst, group), '.')
	dst = append(appendToken(dst, resource), '.')
	if namespace != "" {
		dst = append(appendToken(dst, namespace), '.')
	}
	return string(append(dst, '>'))
}

// Filter is the subject filter for a Key whose fields may be AnyToken. An empty
// Group or Namespace is taken literally: the core group, cluster scope.
func Filter(k Key) string {
	dst := append([]byte(nil), SubjectRoot...)
	for i, token := range [...]string{k.Group, k.Resource, k.Namespace, k.Name} {
		if i > 0 {
			dst = append(dst, '.')
		}
		if token == AnyToken {
			dst = append(dst, '*')
			continue
		}
		dst = appendToken(dst, token)
	}
	return string(dst)
}

// ParseFilter turns what Filter and SubjectPrefix write back into a Key, whose fields are
// AnyToken where the filter takes any value.
func ParseFilter(filter string) (Key, error) {
	tokens := strings.Split(filter, ".")
	if last := len(tokens) - 1; tokens[last] == ">" && last >= 1 && last < subjectTokens {
		for tokens = tokens[:last]; len(tokens) < subjectTokens; {
			tokens = append(tokens, AnyToken)
		}
	}
	if len(tokens) != subjectTokens || tokens[0]+"." != SubjectRoot {
		return Key{}, fmt.Errorf("filter %q: %w", filter, ErrNotObject)
	}
	var parts [subjectTokens - 1]string
	for i, token := range tokens[1:] {
		if token == AnyToken {
			parts[i] = AnyToken
			continue
		}
		part, ok := parseToken(token)
		if !ok || part == AnyToken { // a Key can't tell the name "*" from any name
			return Key{}, fmt.Errorf("filter %q: bad token %q: %w", filter, token, ErrNotObject)
		}
		parts[i] = part
	}
	return Key{Group: parts[0], Resource: parts[1], Namespace: parts[2], Name: parts[3]}, nil
}

// NodeRoute is the one subject that carries the pods of a node.
func NodeRoute(node string) string {
	return string(appendToken(append([]byte(nil), RouteRoot...), node))
}

// LiveNodeRoute is where NodeRoute is republished on core NATS.
func LiveNodeRoute(node string) string { return LiveRoot + NodeRoute(node) }

// ParseNodeRoute turns a node's route back into the node's name.
func ParseNodeRoute(subject string) (string, error) {
	token, ok := strings.CutPrefix(subject, RouteRoot)
	if !ok {
		return "", fmt.Errorf("subject %q is no node's route", subject)
	}
	node, ok := parseToken(token)
	if !ok || node == "" {
		return "", fmt.Errorf("subject %q is no node's route", subject)
	}
	return node, nil
}

// EscapeToken writes any string as one subject token.
func EscapeToken(s string) string { return string(appendToken(nil, s)) }

func appendToken(dst []byte, s string) []byte {
	switch s {
	case "":
		return append(dst, emptyToken...)
	case emptyToken:
		return append(dst, "%5F"...)
	}
	for i := range len(s) {
		c := s[i]
		if plainInToken(c) {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '%', upperHexDigits[c>>4], upperHexDigits[c&15])
	}
	return dst
}

func parseToken(token string) (string, bool) {
	switch token {
	case "":
		return "", false
	case emptyToken:
		return "", true
	}
	if !strings.Contains(token, "%") {
		for i := range len(token) {
			if !plainInToken(token[i]) {
				return "", false
			}
		}
		return token, true
	}
	out := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		if c == '%' {
			if i+escapedByteSize > len(token) {
				return "", false
			}
			hi, lo := strings.IndexByte(upperHexDigits, token[i+1]), strings.IndexByte(upperHexDigits, token[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			out = append(out, byte(hi<<4|lo))
			i += escapedByteSize - 1
			continue
		}
		if !plainInToken(c) {
			return "", false
		}
		out = append(out, c)
	}
	s := string(out)
	return s, string(appendToken(nil, s)) == token
}

func plainInToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c == '-' || c == ':' || c == '_'
}
