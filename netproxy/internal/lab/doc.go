// Package lab builds small networks for tests out of network namespaces and puts processes into them. Everything a test
// makes goes with it, also when it fails.
//
// The processes are the test's own binary, run again: TestMain must call Main first.
package lab
