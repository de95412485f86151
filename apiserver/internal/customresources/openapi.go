package customresources

import (
	"fmt"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// documents keeps what was built of definitions that have not changed. They are kept
// from the first request for a document on, by what they were built from.
type documents struct {
	mu sync.Mutex
	v2 map[string]*spec.Swagger  // guarded by mu
	v3 map[string]*spec3.OpenAPI // guarded by mu
}

// mark names a state of a definition's spec and names.
func mark(d Definition) string {
	names := d.Status.AcceptedNames
	return fmt.Sprintf("%s,%d,%s,%s", d.UID, d.Generation, names.Kind, names.ListKind)
}

// OpenAPIV2 adds what established definitions serve to the document base, which is not
// changed, and tells a mark that changes with the additions. A definition of which no document can be built is left out: it must not take
// the others away.
func (s *Server) OpenAPIV2(base *spec.Swagger) (doc *spec.Swagger, marked string, err error) {
	s.documents.mu.Lock()
	defer s.documents.mu.Unlock()
	built := map[string]*spec.Swagger{}
	var parts []*spec.Swagger
	var marks []string
	for _, d := range s.established() {
		key := mark(d)
		marks = append(marks, key)
		part, ok := s.documents.v2[key]
		if !ok {
			part = swagger(d)
		}
		built[key] = part
		if part != nil {
			parts = append(parts, part)
		}
	}
	s.documents.v2 = built
	marked = strings.Join(marks, ";")
	if len(parts) == 0 {
		return base, marked, nil
	}
	doc, err = builder.MergeSpecs(base, parts...)
	return doc, marked, err
}

// swagger describes all served versions of a definition, nil if that can't be done.
func swagger(d Definition) *spec.Swagger {
	all := &spec.Swagger{}
	for _, v := range d.Spec.Versions {
		if !v.Served {
			continue
		}
		part, err := builder.BuildOpenAPIV2(d.CustomResourceDefinition, v.Name, builder.Options{V2: true, IncludeSelectableFields: true})
		if err != nil {
			return nil
		}
		part.Definitions = handler.PruneDefaults(part.Definitions)
		if all, err = builder.MergeSpecs(all, part); err != nil {
			return nil
		}
	}
	return all
}

// Document is the OpenAPI v3 document of one group version, to be built on demand.
type Document struct {
	schema.GroupVersion
	Mark  string // changes with the document
	Build func() (*spec3.OpenAPI, error)
}

// OpenAPIV3 lists the documents of what established definitions serve.
func (s *Server) OpenAPIV3() []Document {
	var order []schema.GroupVersion
	members := map[schema.GroupVersion][]Definition{}
	for _, d := range s.established() {
		for _, v := range d.Spec.Versions {
			if !v.Served {
				continue
			}
			gv := schema.GroupVersion{Group: d.Spec.Group, Version: v.Name}
			if members[gv] == nil {
				order = append(order, gv)
			}
			members[gv] = append(members[gv], d)
		}
	}
	var all []Document
	current := map[string]bool{}
	for _, gv := range order {
		var marks []string
		for _, d := range members[gv] {
			marks = append(marks, mark(d))
		}
		document := Document{GroupVersion: gv, Mark: gv.String() + ";" + strings.Join(marks, ";")}
		document.Build = func() (*spec3.OpenAPI, error) { return s.document(document, members[gv]) }
		current[document.Mark] = true
		all = append(all, document)
	}
	s.documents.mu.Lock()
	defer s.documents.mu.Unlock()
	for key := range s.documents.v3 {
		if !current[key] {
			delete(s.documents.v3, key)
		}
	}
	return all
}

func (s *Server) document(d Document, members []Definition) (*spec3.OpenAPI, error) {
	s.documents.mu.Lock()
	defer s.documents.mu.Unlock()
	if doc, ok := s.documents.v3[d.Mark]; ok {
		return doc, nil
	}
	var parts []*spec3.OpenAPI
	for _, member := range members {
		part, err := builder.BuildOpenAPIV3(member.CustomResourceDefinition, d.Version, builder.Options{IncludeSelectableFields: true})
		if err != nil {
			return nil, fmt.Errorf("OpenAPI document of %s: %w", member.Name, err)
		}
		parts = append(parts, part)
	}
	doc, err := builder.MergeSpecsV3(parts...)
	if err != nil {
		return nil, fmt.Errorf("OpenAPI document of %s: %w", d.GroupVersion, err)
	}
	if s.documents.v3 == nil {
		s.documents.v3 = map[string]*spec3.OpenAPI{}
	}
	s.documents.v3[d.Mark] = doc
	return doc, nil
}
