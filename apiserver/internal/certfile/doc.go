// Package certfile holds certificates as their files have them now: a server's pair, and
// the authorities that are believed. What is on disk is taken over while the program runs;
// what is wrong or half written is told and changes nothing.
//
// Everything that is read is safe for concurrent use, and what was returned never changes.
package certfile
