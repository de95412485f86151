package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/rutter-project/rutter/schemas"
)

// Format is the version of the format that Write writes and Read reads.
const Format = 1

const (
	magicPrefix  = "rutter bundle "
	digestPrefix = "sha256 "
	digestLength = len(digestPrefix) + 2*sha256.Size + 1

	sectionState  = "state"
	sectionEvents = "events"
	sectionLater  = "later"
)

// Instant is a place in the log: a revision, and when it was.
type Instant struct {
	Rev  int64     `json:"revision"`
	Time time.Time `json:"time"`
}

// Selection is what was chosen from the span; empty fields chose everything.
type Selection struct {
	Namespaces []string `json:"namespaces,omitempty"`
	// Resources as "deployments.apps".
	Resources []string `json:"resources,omitempty"`
	// Object and what it owns.
	Object *schemas.Key `json:"object,omitempty"`
}

// Whole reports that nothing was left out.
func (s Selection) Whole() bool {
	return len(s.Namespaces) == 0 && len(s.Resources) == 0 && s.Object == nil
}

// Section says where a part of the file is and what it must be.
type Section struct {
	Name    string `json:"name"`
	Records int    `json:"records"`
	// Bytes is how much it takes in the file, Plain what comes out of it.
	Bytes  int64  `json:"bytes"`
	Plain  int64  `json:"plain"`
	SHA256 string `json:"sha256"`
}

// Header describes a bundle.
type Header struct {
	// Rutter is the version of the program that wrote it, Made is when.
	Rutter string    `json:"rutter"`
	Made   time.Time `json:"made"`
	// Cluster names the cluster, and the generation of its stream, divided by a dot.
	Cluster string `json:"cluster"`
	// From is the instant of the state, To that of the last change which may be in it.
	From      Instant   `json:"from"`
	To        Instant   `json:"to"`
	Selection Selection `json:"selection"`
	// Redacted says what was hidden: always "secrets".
	Redacted []string `json:"redacted"`
	// Gaps is how many parts of the span are lost.
	Gaps int `json:"gaps"`
	// Later are instants behind gaps that the log itself has, at which the state was read
	// again: nothing leads there from the state at the beginning.
	Later    []Instant `json:"later,omitempty"`
	Sections []Section `json:"sections"`
}

// Objects is how many objects there were at the beginning.
func (h Header) Objects() int { return h.records(sectionState) }

// Events is how many changes and gaps the bundle holds.
func (h Header) Events() int { return h.records(sectionEvents) }

func (h Header) records(name string) int {
	for _, s := range h.Sections {
		if s.Name == name {
			return s.Records
		}
	}
	return 0
}

// Bundle is a bundle that was read.
type Bundle struct {
	Header Header
	// State are the objects at the beginning, each as an event of type ADDED.
	State []schemas.Event
	// Events are the changes after it.
	Events []schemas.Event
	// Later are the objects at Header.Later, one instant after the other, each as an event of
	// type ADDED whose Resync is the instant's revision.
	Later []schemas.Event
}

// preamble is what comes before the sections.
func (h Header) preamble() ([]byte, error) {
	line, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("bundle: header: %w", err)
	}
	text := append(fmt.Appendf(nil, "%s%d\n", magicPrefix, Format), line...)
	text = append(text, '\n')
	return append(text, digestLine(sha256.Sum256(text))...), nil
}

func digestLine(sum [sha256.Size]byte) string {
	return digestPrefix + hex.EncodeToString(sum[:]) + "\n"
}
