// Package blockfile reads the files in which nats-server 2.15 keeps the messages of a
// stream, and mends those that a disk has damaged. The server itself refuses a whole stream
// over one compressed file that can't be decompressed, and a reader that comes to such a file
// while the stream is open waits for ever.
//
// A file is a row of records, either plain or, behind a header that says so, compressed by S2.
// A record is 22 bytes (length, sequence, time, length of the subject; little-endian), the
// subject, the length of the headers if the length's highest bit is set, headers, body, and 8
// bytes of HighwayHash with a key of the stream's name and the file's number. So each record
// can be found and judged by itself. The layout is not the server's API: what is read of it
// here is held by tests against files that the server wrote.
package blockfile
