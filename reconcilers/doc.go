// Package reconcilers runs the controllers that make a cluster out of an API: they read
// objects from the event bus and write, through the API only, what follows from them.
//
// Each controller is a folder of its own under internal, on the engine in
// internal/engine. What wakes a controller becomes the cause of what it writes.
package reconcilers
