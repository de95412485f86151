package past

// Family is a set of objects, by identity, that grows by what its members own.
type Family map[string]bool

// Add makes an object a member.
func (f Family) Add(object []byte) {
	if uid := UID(object); uid != "" {
		f[uid] = true
	}
}

// Adopt makes an object a member if a member owns it.
func (f Family) Adopt(object []byte) {
	s := stateOf(object)
	for _, ref := range s.Metadata.OwnerReferences {
		if f[ref.UID] && s.Metadata.UID != "" {
			f[s.Metadata.UID] = true
		}
	}
}

// Has reports whether an object is a member.
func (f Family) Has(object []byte) bool { return f[UID(object)] }
