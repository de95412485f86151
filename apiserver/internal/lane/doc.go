// Package lane lets a handler write a long response past net/http's HTTP/2 server.
//
// That server hands every frame of every stream from the handler's goroutine to the
// connection's and back: two switches of goroutines and a write each. A watch says one
// short thing to many streams at once, and this was half of what it cost. Here all
// streams of a connection append finished frames to one buffer, under one lock, and one
// goroutine at a time encrypts and writes what has gathered.
//
// A Conn stands between TLS and net/http's server and sees the frames of both sides. The
// server keeps the protocol: settings, header compression, priorities, limits, pings,
// resets, GOAWAY, the end of each stream. What a lane takes over is DATA frames between
// the headers of a response and its end, and so what RFC 9113 asks of who sends those:
//
//   - Frames are put only between frames of the server, never within one or between a
//     HEADERS frame and its CONTINUATION (4.3), and after the response's headers.
//   - They hold 16 KiB at most, which every receiver takes (4.2).
//   - A stream's window (5.2, 6.9) is counted here from the request on. The server does not
//     see the WINDOW_UPDATEs of a lane, whose DATA it does not count either. A change of
//     SETTINGS_INITIAL_WINDOW_SIZE holds for lanes before the server acknowledges it.
//   - The connection's window is shared. The server believes that it has what lanes have
//     used, which is a debt; the client's WINDOW_UPDATEs pay it before the server sees
//     any. A DATA frame of the server that the true window does not hold is cut in
//     pieces, which wait, and lanes wait for them.
//   - After a RST_STREAM from either side, and after the server's END_STREAM, nothing of
//     the stream is sent (5.1).
//
// What is wrong is left to the server to answer: frames that break a rule are passed on as
// they are, and an overflow of a window that only this package can see is shown to the
// server as one.
//
// net/http tells no handler the number of its stream. So a field is appended to the headers
// of requests without a body, named by chance, which holds the number and is taken off
// before the handler sees it. A literal that is not indexed leaves the compression's state
// as it is (RFC 7541, 6.2.2).
//
// Clients whose connection window is small, HTTP/1.1, and requests of other listeners have
// no lanes; Open says so.
//
// A client that does not read holds up its own connection only: what waits to be sent is
// bounded, and writers wait.
package lane
