package kinds

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/util/filesystem"
)

// Authenticator finds out who asks.
type Authenticator struct {
	authenticator.Request
	issuer string
	file   authenticationFile // the last one taken over; its path is empty if there is none
	update func(context.Context, *apiserverapi.AuthenticationConfiguration) error
}

const (
	// filePoll is for file systems that don't tell of changes.
	filePoll = time.Minute
	// issuersPatience is how long new issuers have to answer before they are taken over.
	issuersPatience = time.Minute
)

var errAnonymousChanged = errors.New("anonymous: it was changed, which takes a restart")

// Follow takes over changes of the authentication file until the context ends, and tells
// how each went. What is wrong leaves what was there in force.
func (a *Authenticator) Follow(ctx context.Context, told func(error)) {
	if a.file.path == "" {
		return
	}
	filesystem.WatchUntil(ctx, filePoll, a.file.path, func() {
		if changed, err := a.reload(ctx); changed || err != nil {
			told(err)
		}
	}, told)
}

func (a *Authenticator) reload(ctx context.Context) (bool, error) {
	next, err := readAuthentication(a.file.path, a.issuer)
	switch {
	case err != nil:
		return false, err
	case next.data == a.file.data:
		return false, nil
	case !reflect.DeepEqual(next.Anonymous, a.file.Anonymous):
		return false, errAnonymousChanged
	}
	ctx, cancel := context.WithTimeout(ctx, issuersPatience)
	defer cancel()
	if err := a.update(ctx, next.AuthenticationConfiguration); err != nil {
		return false, fmt.Errorf("authentication configuration %s: %w", next.path, err)
	}
	a.file = next
	return true, nil
}
