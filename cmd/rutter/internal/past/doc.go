// Package past explains what happened to objects from the events of a cluster: who last
// set each field, what an object owns, and the chain of causes that led to it. It only
// decides; events come from who asks.
package past
