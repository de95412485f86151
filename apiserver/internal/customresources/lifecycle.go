package customresources

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	"k8s.io/apiextensions-apiserver/pkg/controller/apiapproval"
	"k8s.io/apiextensions-apiserver/pkg/controller/establish"
	"k8s.io/apiextensions-apiserver/pkg/controller/finalizer"
	"k8s.io/apiextensions-apiserver/pkg/controller/nonstructuralschema"
	"k8s.io/apiextensions-apiserver/pkg/controller/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	// resync is how often the controllers look at definitions that have not changed.
	resync = 5 * time.Minute
	// conditionWorkers and finalizerWorkers are how many definitions are dealt with at a time.
	conditionWorkers = 2
	finalizerWorkers = 5
)

// Lifecycle brings definitions from created to established, and from deleted to gone,
// their objects first. The rules are upstream's controllers.
type Lifecycle struct {
	server     *Server
	informers  externalversions.SharedInformerFactory
	naming     *status.NamingConditionController
	establish  *establish.EstablishingController
	structural *nonstructuralschema.ConditionController
	approval   *apiapproval.KubernetesAPIApprovalPolicyConformantConditionController
	finalizer  *finalizer.CRDFinalizer
}

// NewLifecycle returns the controllers, which read and write definitions with the
// client. It starts nothing.
func NewLifecycle(server *Server, config *rest.Config) (*Lifecycle, error) {
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of definitions: %w", err)
	}
	factory := externalversions.NewSharedInformerFactory(client, resync)
	informer := factory.Apiextensions().V1().CustomResourceDefinitions()
	l := &Lifecycle{
		server: server, informers: factory,
		naming:     status.NewNamingConditionController(klog.Background(), informer, client.ApiextensionsV1()),
		establish:  establish.NewEstablishingController(informer, client.ApiextensionsV1()),
		structural: nonstructuralschema.NewConditionController(informer, client.ApiextensionsV1()),
		approval:   apiapproval.NewKubernetesAPIApprovalPolicyConformantConditionController(informer, client.ApiextensionsV1()),
		finalizer:  finalizer.NewCRDFinalizer(informer, client.ApiextensionsV1(), server),
	}
	see := func(obj any) {
		if crd, ok := obj.(*apiextensions.CustomResourceDefinition); ok {
			l.see(crd)
		}
	}
	_, err = informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }})
	return l, err
}

// see establishes definitions whose names are accepted. There is nothing to wait for:
// a server that has not seen the definition yet catches up when it is asked.
func (l *Lifecycle) see(crd *apiextensions.CustomResourceDefinition) {
	if apihelpers.IsCRDConditionTrue(crd, apiextensions.NamesAccepted) && !apihelpers.IsCRDConditionTrue(crd, apiextensions.Established) {
		l.establish.QueueCRD(crd.Name, 0)
	}
}

// Run runs the controllers until the context ends.
func (l *Lifecycle) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context){
		l.naming.RunWithContext,
		l.establish.RunWithContext,
		func(ctx context.Context) { l.structural.RunWithContext(conditionWorkers, ctx) },
		func(ctx context.Context) { l.approval.RunWithContext(conditionWorkers, ctx) },
		func(ctx context.Context) { l.finalizer.RunWithContext(finalizerWorkers, ctx) },
	} {
		g.Go(func() error { run(ctx); return nil })
	}
	l.informers.StartWithContext(ctx)
	err := g.Wait()
	l.informers.Shutdown()
	return err
}
