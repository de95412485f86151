package remote

import (
	"context"
	"encoding/json"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutter-project/rutter/schemas"
)

// Marks are the named marks of a cluster, as they were read.
type Marks struct {
	// Values by name, as schemas.ParseMark reads them.
	Values  map[string]string
	version string // of the ConfigMap, empty if there is none
}

// configMaps is where marks are kept.
var configMaps = Resource{Version: "v1", Resource: schemas.Marks.Resource, Namespaced: true}

// markManager owns the marks.
const markManager = "rutter-mark"

// Marks reads the marks of now.
func (s *Server) Marks(ctx context.Context) (Marks, error) {
	object, err := s.Object(ctx, "", configMaps, schemas.Marks)
	if err != nil || len(object) == 0 {
		return Marks{}, err
	}
	var is struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(object, &is); err != nil {
		return Marks{}, err
	}
	values, err := schemas.MarksOf(object)
	return Marks{Values: values, version: is.Metadata.ResourceVersion}, err
}

// SetMark sets a mark, or deletes it if the value is nil. It fails if marks have changed
// since they were read.
func (s *Server) SetMark(ctx context.Context, read Marks, name string, value *string) error {
	metadata := map[string]string{"name": schemas.Marks.Name, "namespace": schemas.Marks.Namespace}
	r := write{method: http.MethodPost, path: configMaps.path(schemas.Marks.Namespace, ""), contentType: "application/json", manager: markManager}
	if read.version != "" {
		r.method, r.path, r.contentType = http.MethodPatch, configMaps.path(schemas.Marks.Namespace, schemas.Marks.Name), string(types.MergePatchType)
		metadata["resourceVersion"] = read.version
	}
	var err error
	r.body, err = json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": map[string]*string{name: value}})
	if err != nil {
		return err
	}
	_, err = s.write(ctx, r)
	return err
}

// MarksChanged reports that SetMark has failed because somebody else was faster.
func MarksChanged(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
