package kinds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"time"

	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/server/options/authenticationconfig/metrics"
	"k8s.io/apiserver/pkg/util/filesystem"
)

// Authenticator finds out who asks.
type Authenticator struct {
	authenticator.Request
	issuer string
	server string             // which of the API servers this is
	file   authenticationFile // the last one taken over; its path is empty if there is none
	// refused is what the file holds if that is wrong and was told: it won't get better by
	// being read again.
	refused string
	update  func(context.Context, *apiserverapi.AuthenticationConfiguration) error
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
	metrics.RecordAuthenticationConfigLastConfigInfo(a.server, a.file.data)
	filesystem.WatchUntil(ctx, filePoll, a.file.path, func() {
		switch changed, err := a.reload(ctx); {
		case err != nil:
			metrics.RecordAuthenticationConfigAutomaticReloadFailure(a.server)
			told(err)
		case changed:
			metrics.RecordAuthenticationConfigAutomaticReloadSuccess(a.server, a.file.data)
			told(nil)
		}
	}, told)
}

func (a *Authenticator) reload(ctx context.Context) (bool, error) {
	data, err := os.ReadFile(a.file.path)
	if err != nil {
		return false, fmt.Errorf("authentication configuration: %w", err)
	}
	switch string(data) {
	case a.file.data:
		a.refused = ""
		return false, nil
	case a.refused:
		return false, nil
	}
	next, err := parseAuthentication(data, a.issuer)
	if err == nil && !reflect.DeepEqual(next.Anonymous, a.file.Anonymous) {
		err = errAnonymousChanged
	}
	if err != nil {
		a.refused = string(data)
		return false, fmt.Errorf("authentication configuration %s: %w", a.file.path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, issuersPatience)
	defer cancel()
	if err := a.update(ctx, next); err != nil {
		return false, fmt.Errorf("authentication configuration %s: %w", a.file.path, err)
	}
	a.file.data, a.file.AuthenticationConfiguration, a.refused = string(data), next, ""
	return true, nil
}

// reviewed looks at the credentials in TokenReviews. Upstream puts them into a request
// without a URL, of which its authenticator of anonymous requests reads the path.
type reviewed struct{ authenticator.Request }

// AuthenticateRequest implements authenticator.Request.
func (a reviewed) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.URL == nil {
		r.URL = &url.URL{}
	}
	return a.Request.AuthenticateRequest(r)
}
