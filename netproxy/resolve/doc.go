// Package resolve turns API objects into what the datapath should hold. It is pure: no clock, no logger, no I/O, and
// one service depends on nothing but itself, its slices and this node, so that a change costs what it touches.
//
// The choice of endpoints follows kube-proxy: ready ones, by hints where all of them carry some; terminating ones that
// still serve when no other is left; and those of this node where a traffic policy asks for it.
package resolve
