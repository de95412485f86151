// Package customresources serves the objects of CustomResourceDefinitions.
//
// A Server is a value made of a Source of definitions and a way to open storage; it
// has no other state than what it can build again. The live server's source follows
// the view, so that a definition is served as soon as its revision has been applied;
// a fixed set of definitions serves them as they were at some instant.
//
// Schemas, validators, printers and converters come from k8s.io/apiextensions-apiserver
// and are built for one version of one definition when it is first asked for.
package customresources
