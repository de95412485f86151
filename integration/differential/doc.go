// Package differential sends the same requests to Rutter and to upstream's kube-apiserver
// 1.37.2 and compares what they answer: status, headers, body. Whatever differs must be
// in the table of justified differences, with its reason.
//
// Upstream's answers are kept in testdata, so that Rutter is compared with them wherever
// tests run. `./task differential` builds kube-apiserver and asks it as well;
// `./task differential -- -record` keeps its answers.
package differential
