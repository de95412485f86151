package kinds

import (
	restful "github.com/emicklei/go-restful/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/server/routes"
)

// Container serves web services, and refuses what fits none of their routes by path,
// method, or media type, in upstream's words. Panics are left to the caller.
func Container(services ...*restful.WebService) *restful.Container {
	c := restful.NewContainer()
	c.Router(restful.CurlyRouter{})
	c.DoNotRecover(true)
	c.ServiceErrorHandler(func(refused restful.ServiceError, req *restful.Request, resp *restful.Response) {
		err := apierrors.NewGenericServerResponse(refused.Code, "", schema.GroupResource{}, "", refused.Message, 0, false)
		responsewriters.ErrorNegotiated(err, codecs, schema.GroupVersion{}, resp, req.Request)
	})
	for _, s := range services {
		c.Add(s)
	}
	return c
}

// VersionService serves /version.
func VersionService() *restful.WebService {
	container, version := Container(), Version()
	routes.Version{Version: &version}.Install(container)
	return container.RegisteredWebServices()[0]
}
