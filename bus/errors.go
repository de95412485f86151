package bus

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Errors that callers act upon.
var (
	// ErrNotFound says that a message or object is not in the stream.
	ErrNotFound = errors.New("not found in the stream")
	// ErrNoSpace says that the disk or the configured storage is used up. Nothing
	// is lost: the relay goes on where it stopped once there is space.
	ErrNoSpace = errors.New("no space for the streams")
	// ErrFenced says that somebody else has appended to HISTORY.
	ErrFenced = errors.New("another relay has appended to the stream")
	// ErrDamaged says that a message can't be read, or that files of the streams have just
	// been put aside because of that. What comes next is known in a moment: read again.
	ErrDamaged = errors.New("files of the stream are damaged and are being put aside; read again")
	// ErrExpired says that a reader was away for too long and must list again.
	ErrExpired = errors.New("position in the stream is no longer held")
)

// Codes of JetStream's API errors that mean something to us.
const (
	codeInsufficientResources = 10023
	codeStorageExceeded       = 10047
	codeStoreFailed           = 10077
	codeWrongLastSequence     = 10071
	codeWrongLastSequenceR3   = 10164
	codeResourcesExceeded     = 10002
)

// explain adds to an error of JetStream what the caller can do about it.
func explain(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch int(api.ErrorCode) {
	case codeInsufficientResources, codeStorageExceeded, codeStoreFailed, codeResourcesExceeded:
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case codeWrongLastSequence, codeWrongLastSequenceR3:
		return fmt.Errorf("%w: %w", ErrFenced, err)
	default:
		return err
	}
}
