package serve

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"

	restful "github.com/emicklei/go-restful/v3"
	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	"k8s.io/apiserver/pkg/endpoints/request"
	serverfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/mux"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	flowrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"

	"github.com/rutter-project/rutter/apiserver/internal/audit"
	"github.com/rutter-project/rutter/apiserver/internal/history"
	"github.com/rutter-project/rutter/apiserver/internal/kinds"
)

// Limits of kube-apiserver 1.37 for requests that are not long-running.
const (
	requestTimeout = 60 * time.Second
	// MaxInFlight is how many seats there are for requests: upstream's 400 for reads and
	// 200 for writes.
	MaxInFlight = 600
	// queueTimeout is for how long a request waits for its turn.
	queueTimeout = requestTimeout / 4
)

// Config is what the HTTP side is made of. All fields are required.
type Config struct {
	API           *kinds.API
	Authenticator authenticator.Request
	Authorizer    authorizer.UnconditionalAuthorizer
	Audiences     authenticator.Audiences
	Issuer        []*restful.WebService // serve the token issuer's discovery documents; optional
	Health        *Health
	Flow          utilflowcontrol.Interface // decides who waits for whom; nil lets everybody through
	Work          flowrequest.WorkEstimatorFunc
	Address       string // host:port that discovery advertises
	// Stored are the resources that can be read as the bytes they are stored in.
	Stored map[schema.GroupVersionResource]Stored
	// History answers for the past; nil if there is no event bus.
	History *history.History
	// Ended is the instant that a request reads which names none, if all of it is past: the
	// end of a recording. Empty on a live server.
	Ended string
	// Audit is what is recorded of requests.
	Audit *audit.Trail
	// Metrics are those of the server's parts, beside what is counted for the process;
	// optional.
	Metrics prometheus.Gatherer
	// Flags are the settings that the server was started with, by name.
	Flags map[string]string
	// Custom serves all other kinds.
	Custom Custom
	// CustomAt serves what was defined in the past that a request reads, and marks which
	// definitions these are. The mark is empty for those of the present.
	CustomAt func(ctx context.Context) (custom Custom, mark string)
	// Front serves what is not this server's own, before everything else, and leaves the
	// rest to next.
	Front func(next http.Handler) http.Handler
}

// New returns the whole handler: filters, gin, dispatch.
func New(c Config) (http.Handler, error) {
	engine, err := newEngine(c)
	if err != nil {
		return nil, err
	}
	return c.chain(engine), nil
}

// newEngine registers the fixed paths; the rest is dispatched by shape.
func newEngine(c Config) (*gin.Engine, error) {
	openapi, err := newThen(c, func(custom Custom) (http.Handler, error) { return newOpenAPI(c, custom) })
	if err != nil {
		return nil, err
	}
	dispatch, err := newThen(c, func(custom Custom) (http.Handler, error) { return c.dispatcher(custom), nil })
	if err != nil {
		return nil, err
	}
	gin.SetMode(gin.ReleaseMode)
	e := fixedPaths{Engine: gin.New(), exact: map[string]gin.HandlerFunc{}, below: map[string]gin.HandlerFunc{}}
	e.RedirectTrailingSlash, e.RedirectFixedPath, e.HandleMethodNotAllowed = false, false, false
	e.UseRawPath = false
	for _, name := range probes {
		e.any(name, gin.WrapH(c.Health.handler(name)))
		e.any(name+"/*check", gin.WrapH(c.Health.handler(name)))
	}
	for _, service := range c.fixed() {
		served := plainly(kinds.Container(service))
		e.any(service.RootPath(), served)
		e.any(service.RootPath()+"/*rest", served) // what it does not serve it refuses
	}
	e.any("/metrics", gin.WrapH(c.allMetrics()))
	e.any("/metrics/slis", gin.WrapH(c.Health.indicators()))
	for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/*rest"} {
		e.any(path, gin.WrapH(openapi))
	}
	e.any("/debug/pprof/*name", gin.WrapF(profile))
	if c.Flow != nil {
		dumps := mux.NewPathRecorderMux("flow control")
		c.Flow.Install(dumps)
		e.any("/debug/api_priority_and_fairness/*dump", gin.WrapH(dumps))
	}
	for _, path := range []string{"/", "/index.html"} {
		e.any(path, gin.WrapF(c.index))
	}
	c.installPages(e)
	e.NoRoute(e.others, gin.WrapH(dispatch))
	return e.Engine, nil
}

// fixed are the services whose paths never change.
func (c Config) fixed() []*restful.WebService {
	return append([]*restful.WebService{kinds.VersionService()}, c.Issuer...)
}

// plainly serves without the mux that the container would bring along.
func plainly(container *restful.Container) gin.HandlerFunc {
	return func(g *gin.Context) { container.Dispatch(g.Writer, g.Request) }
}

func profile(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/debug/pprof/profile":
		pprof.Profile(w, r)
	case "/debug/pprof/trace":
		pprof.Trace(w, r)
	case "/debug/pprof/symbol":
		pprof.Symbol(w, r)
	case "/debug/pprof/cmdline":
		pprof.Cmdline(w, r)
	default:
		pprof.Index(w, r)
	}
}

// dispatcher sends discovery and resource paths to their handlers.
func (c Config) dispatcher(custom Custom) http.Handler {
	c.Custom = custom
	discoverer := newDiscoverer(c.API, c.Custom, c.Address)
	resources := newReads(c, newRoutes(c.API, c.Custom.Handler(newNotFound(c.API))))
	all := c.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := discoverer.handler(r.URL.Path); h != nil {
			h.ServeHTTP(w, r)
			return
		}
		resources.ServeHTTP(w, r)
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g, ok := w.(gin.ResponseWriter); ok {
			w = unset(g)
		}
		all.ServeHTTP(w, r)
	})
}

// unset takes back the 404 that gin notes before it calls NoRoute: handlers that only
// write would send it.
func unset(w gin.ResponseWriter) http.ResponseWriter {
	w.WriteHeader(http.StatusOK)
	return w
}

// RequestInfo resolves paths the way kube-apiserver does.
func RequestInfo() *request.RequestInfoFactory {
	return &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
}

// LongRunning tells requests that last as long as their clients want.
func LongRunning() request.LongRunningRequestCheck {
	basic := serverfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	return func(r *http.Request, info *request.RequestInfo) bool {
		return info.Path == historyEvents || info.Path == historyState || basic(r, info)
	}
}

// chain wraps the handler in the filters, the last named the first to run.
func (c Config) chain(h http.Handler) http.Handler {
	codecs := kinds.Codecs()
	longRunning := LongRunning()
	h = withOrigin(h)
	h = c.withPast(h)
	calls := c.calls()
	h = c.withTrial(h, calls)
	h = filters.WithAuthorization(h, c.Authorizer, codecs)
	h = withReadOnly(h, calls)
	h = c.withHistory(h)
	if c.Flow != nil {
		h = serverfilters.WithPriorityAndFairness(h, longRunning, c.Flow, c.Work, queueTimeout)
	}
	h = impersonation.WithConstrainedImpersonation(h, c.Authorizer, codecs)
	h = withInstantRecorded(h)
	h = filters.WithAudit(h, c.Audit.Sink, c.Audit.Policy, longRunning)
	unauthorized := filters.WithFailedAuthenticationAudit(filters.Unauthorized(codecs), c.Audit.Sink, c.Audit.Policy)
	h = filters.WithAuthentication(h, c.Authenticator, unauthorized, c.Audiences, nil)
	h = filters.WithWarningRecorder(h)
	h = serverfilters.WithTimeoutForNonLongRunningRequests(h, longRunning)
	h = filters.WithRequestDeadline(h, c.Audit.Sink, c.Audit.Policy, longRunning, codecs, requestTimeout)
	h = filters.WithCacheControl(h)
	h = serverfilters.WithHTTPLogging(h)
	h = filters.WithLatencyTrackers(h)
	h = filters.WithRequestInfo(h, RequestInfo())
	h = filters.WithRequestReceivedTimestamp(h)
	h = serverfilters.WithPanicRecovery(h, RequestInfo())
	return c.withVisit(filters.WithAuditInit(h))
}
