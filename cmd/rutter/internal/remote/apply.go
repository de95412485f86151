package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/schemas"
)

// Application writes an object: by a server-side apply that takes fields over from other
// managers or, with Replace, as a whole. It fails if Object names a resourceVersion that is
// not the live one.
type Application struct {
	Resource Resource
	Key      schemas.Key
	// Object is what is asked for.
	Object json.RawMessage
	// Manager becomes the owner of its fields.
	Manager string
	// DryRun only asks what would come of it.
	DryRun bool
	// Replace takes away what Object does not have. The object must be there.
	Replace bool
}

// Apply applies an object and returns what came of it.
func (s *Server) Apply(ctx context.Context, a Application) (json.RawMessage, error) {
	w := write{method: http.MethodPatch, path: a.Resource.path(a.Key.Namespace, a.Key.Name), query: url.Values{},
		contentType: string(types.ApplyYAMLPatchType), // JSON is YAML
		manager:     a.Manager, body: a.Object}
	if a.Replace {
		w.method, w.contentType = http.MethodPut, "application/json"
	} else {
		w.query.Set("force", "true")
	}
	if a.DryRun {
		w.query.Set("dryRun", metav1.DryRunAll)
	}
	return s.write(ctx, w)
}

// write is a request that changes something.
type write struct {
	method, path, contentType, manager string
	query                              url.Values
	body                               []byte
}

// write sends a request that changes something and returns what came of it.
func (s *Server) write(ctx context.Context, w write) (json.RawMessage, error) {
	target := *s.base
	target.Path += w.path
	query := url.Values{}
	maps.Copy(query, w.query)
	if w.manager != "" {
		query.Set("fieldManager", w.manager)
	}
	target.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, w.method, target.String(), bytes.NewReader(w.body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", w.contentType)
	body, err := s.answer(r)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	object, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("answer to %s: %w", w.path, err)
	}
	return object, nil
}

// Whoami is the caller's name as the server knows it.
func (s *Server) Whoami(ctx context.Context) (string, error) {
	text, err := s.write(ctx, write{method: http.MethodPost, path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", contentType: "application/json",
		body: []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)})
	if err != nil {
		return "", fmt.Errorf("who you are: %w", err)
	}
	var review struct {
		Status struct {
			UserInfo struct{ Username string }
		}
	}
	if err := json.Unmarshal(text, &review); err != nil {
		return "", fmt.Errorf("who you are: %w", err)
	}
	return review.Status.UserInfo.Username, nil
}
