package lane

// leastWindow is how large a connection's window must have been for lanes to use it: in a
// small one they would get in the server's way.
const leastWindow = 1 << 20

// window is what a client takes on a connection, all streams together. The server believes
// that free+debt is left.
type window struct {
	free int64 // never negative
	debt int64 // what lanes have sent and the client has not returned
	most int64 // the largest that free has been
}

// served takes what the server sends.
func (w *window) served(n int) { w.free -= int64(n) }

// used takes what a lane sends.
func (w *window) used(n int) {
	w.free -= int64(n)
	w.debt += int64(n)
}

// returned adds what the client returns and says how much of it the server must see. It is
// false if the client has returned more than a window may be.
func (w *window) returned(n int64) (int64, bool) {
	if w.free+n > largestWindow {
		return 0, false
	}
	w.free += n
	w.most = max(w.most, w.free)
	paid := min(n, w.debt)
	w.debt -= paid
	return n - paid, true
}

// ample says whether lanes may use the window at all.
func (w *window) ample() bool { return w.most >= leastWindow }
