package serve

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/rutter-project/rutter/apiserver/internal/history"
	"github.com/rutter-project/rutter/schemas"
)

// state lists the objects that there were at an instant, as they are stored.
func (c Config) state(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if err := onlyParameters(query, "at", "group", "resource", "namespace", "name"); err != nil {
		return err
	}
	key, err := keyParameters(query)
	if err != nil {
		return err
	}
	if !query.Has("at") {
		return badParameter(query, "at", history.Forms)
	}
	point, err := pointParameter(query, "at", c.History.Now())
	if err != nil {
		return err
	}
	who, _ := request.UserFrom(r.Context())
	may := &permissions{authz: c.Authorizer, who: who, verb: "list", name: key.Name}
	if err := may.checkNamed(r.Context(), key); err != nil {
		return err
	}
	reader, err := c.History.Open(r.Context(), history.Span{From: *point})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	writeInstant(w, reader)
	out := newEventStream(w, false, cancel)
	defer out.close()
	sent := 0
	err = history.Objects(reader.Past, key, func(e schemas.Event) error {
		if !may.see(ctx, e.Key) {
			return nil
		}
		sent++
		return out.event(e)
	})
	if err == nil && sent == 0 && !c.serves(key) && out.refuse() {
		return unknown(key)
	}
	if err != nil && r.Context().Err() == nil {
		out.fail(err)
	}
	return nil
}

// keyParameters read which objects are asked for.
func keyParameters(query url.Values) (schemas.Key, error) {
	key := schemas.Key{Group: schemas.AnyToken, Resource: schemas.AnyToken, Namespace: schemas.AnyToken, Name: schemas.AnyToken}
	for name, field := range map[string]*string{"group": &key.Group, "resource": &key.Resource, "namespace": &key.Namespace} {
		value, ok := strings.ToLower(query.Get(name)), query.Has(name)
		switch {
		case !ok:
		case strings.ContainsAny(value, "*/ \x00") || (value == "" && name == "resource"):
			return schemas.Key{}, badParameter(query, name, "the exact "+name)
		case name == "group" && value == "core":
			*field = ""
		default:
			*field = value
		}
	}
	if !query.Has("name") {
		return key, nil
	}
	// Names of roles may have upper case, spaces and stars; what no object can have never matches.
	key.Name = query.Get("name")
	if key.Name == schemas.AnyToken || len(content.IsPathSegmentName(key.Name)) > 0 || key.Name == "" {
		return schemas.Key{}, badParameter(query, "name", "the exact name")
	}
	return key, nil
}
