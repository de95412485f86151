package view

// Stats are what one table holds and has seen.
type Stats struct {
	Prefix  string // of its keys
	Objects int
	Bytes   int   // of the objects as stored
	Changes int64 // since the view was made
	Resets  int64 // how often everything was read anew
	Rev     int64
}

// Log is how many changes of a table stay for watchers.
const Log = logCap

// Stats are those of all tables, in no order.
func (v *View) Stats() []Stats {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := make([]Stats, 0, len(v.tables))
	for _, t := range v.tables {
		all = append(all, t.stats())
	}
	return all
}

func (t *Table) stats() Stats {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return Stats{Prefix: t.prefix, Objects: t.tree.Len(), Bytes: t.bytes, Changes: t.changes, Resets: t.epoch, Rev: t.rev}
}

// StatsOf are those of the table of a prefix, if there is one: unlike Table it makes none,
// whatever it is asked for.
func (v *View) StatsOf(prefix string) (Stats, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t, ok := v.tables[prefix]
	if !ok {
		return Stats{Prefix: prefix}, false
	}
	return t.stats(), true
}
