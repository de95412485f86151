package aggregation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Document is the OpenAPI v3 document of an aggregated version.
type Document struct {
	Path  string // "apis/example.com/v1"
	Mark  string // changes with the version's APIService
	Build func() (*spec3.OpenAPI, error)
}

var errUnavailable = errors.New(unavailable)

// OpenAPIV3 lists the documents of servers that are available, or were.
func (a *Aggregator) OpenAPIV3() []Document {
	var all []Document
	for _, service := range a.remote() {
		if !available(service) && !a.documents.has(service) {
			continue
		}
		all = append(all, Document{
			Path: "apis/" + gvOf(service).String(), Mark: a.mark(service),
			Build: func() (*spec3.OpenAPI, error) { return a.document(service) },
		})
	}
	return all
}

// mark names a state of a service and of what its server is known to serve.
func (a *Aggregator) mark(service *apiregistration.APIService) string {
	return fmt.Sprintf("%s,%s,%d", service.UID, service.ResourceVersion, a.generation.Load())
}

// document is a version's v3 document, the last one while its server does not answer.
func (a *Aggregator) document(service *apiregistration.APIService) (*spec3.OpenAPI, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout) // documents are built for whoever asks next, too
	defer cancel()
	doc, err := a.fetchDocument(ctx, service)
	if err != nil && available(service) && a.documents.has(service) {
		a.generation.Add(1) // so that it is asked again next time, although there is a document
	}
	return a.documents.or(service, doc, err)
}

// fetchDocument fetches a version's v3 document, or makes it of v2 if the server has no
// other.
func (a *Aggregator) fetchDocument(ctx context.Context, service *apiregistration.APIService) (*spec3.OpenAPI, error) {
	if !available(service) {
		return nil, errUnavailable
	}
	doc := &spec3.OpenAPI{}
	err := a.fetchJSON(ctx, service, "/openapi/v3/apis/"+gvOf(service).String(), "application/json", doc)
	var answer *answerError
	if err == nil || !errors.As(err, &answer) || answer.status != http.StatusNotFound {
		return doc, err
	}
	swagger, err := a.fetchSwagger(ctx, service)
	if err != nil {
		return nil, err
	}
	return openapiconv.ConvertV2ToV3(swagger), nil
}

// fetchSwagger fetches a server's v2 document and cuts it to what it serves for us.
func (a *Aggregator) fetchSwagger(ctx context.Context, service *apiregistration.APIService) (*spec.Swagger, error) {
	if !available(service) {
		return nil, errUnavailable
	}
	doc := &spec.Swagger{}
	if err := a.fetchJSON(ctx, service, "/openapi/v2", "application/json", doc); err != nil {
		return nil, err
	}
	return aggregator.FilterSpecByPathsWithoutSideEffects(doc, []string{"/apis/" + gvOf(service).String() + "/"}), nil
}

// OpenAPIV2 adds what other servers serve to the document, which is not changed, and tells
// a mark that changes with the additions. Of a server that does not answer it is what it
// served last.
func (a *Aggregator) OpenAPIV2(base *spec.Swagger) (*spec.Swagger, string, error) {
	services := a.remote()
	parts := make([]*spec.Swagger, len(services))
	var marks []string
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	for i, service := range services {
		if !available(service) && !a.swaggers.has(service) {
			continue
		}
		marks = append(marks, a.mark(service))
		wg.Go(func() {
			part, err := a.fetchSwagger(ctx, service)
			if err != nil && available(service) {
				a.generation.Add(1) // so that it is asked again next time
			}
			if part, err = a.swaggers.or(service, part, err); err == nil {
				parts[i] = part
			}
		})
	}
	wg.Wait()
	if len(marks) == 0 {
		return base, "", nil
	}
	merged := *base
	merged.Definitions = make(spec.Definitions, len(base.Definitions))
	for name, s := range base.Definitions {
		merged.Definitions[name] = s
	}
	merged.Paths = &spec.Paths{Paths: make(map[string]spec.PathItem, len(base.Paths.Paths))}
	for path, item := range base.Paths.Paths {
		merged.Paths.Paths[path] = item
	}
	merged.Parameters = make(map[string]spec.Parameter, len(base.Parameters))
	for name, p := range base.Parameters {
		merged.Parameters[name] = p
	}
	for _, part := range parts {
		if part == nil {
			continue
		}
		if err := aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(&merged, part); err != nil {
			return nil, "", err
		}
	}
	return &merged, strings.Join(marks, ";"), nil
}
