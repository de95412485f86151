package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/schemas"
)

// Application is a server-side apply that takes fields over from other managers. It fails
// if Object names a resourceVersion that is not the live one.
type Application struct {
	Resource Resource
	Key      schemas.Key
	// Object is what is asked for.
	Object json.RawMessage
	// Manager becomes the owner of its fields.
	Manager string
	// DryRun only asks what would come of it.
	DryRun bool
}

// Apply applies an object and returns what came of it.
func (s *Server) Apply(ctx context.Context, a Application) (json.RawMessage, error) {
	query := url.Values{"fieldManager": {a.Manager}, "force": {"true"}}
	if a.DryRun {
		query.Set("dryRun", metav1.DryRunAll)
	}
	target := *s.base
	target.Path += a.Resource.path(a.Key.Namespace, a.Key.Name)
	target.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPatch, target.String(), bytes.NewReader(a.Object))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", string(types.ApplyYAMLPatchType)) // JSON is YAML
	body, err := s.answer(r)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	object, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("answer to the apply of %s: %w", a.Key, err)
	}
	return object, nil
}

// Whoami is the caller's name as the server knows it.
func (s *Server) Whoami(ctx context.Context) (string, error) {
	target := *s.base
	target.Path += "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	body, err := s.answer(r)
	if err != nil {
		return "", fmt.Errorf("who you are: %w", err)
	}
	defer body.Close()
	var review struct {
		Status struct {
			UserInfo struct{ Username string }
		}
	}
	if err := json.NewDecoder(body).Decode(&review); err != nil {
		return "", fmt.Errorf("who you are: %w", err)
	}
	return review.Status.UserInfo.Username, nil
}
