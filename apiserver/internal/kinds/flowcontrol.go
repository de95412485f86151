package kinds

import (
	"context"
	"errors"
	"fmt"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	flowcontrolclient "k8s.io/client-go/kubernetes/typed/flowcontrol/v1"
	listers "k8s.io/client-go/listers/flowcontrol/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/ensurer"
)

// FlowControlDefaults keeps the FlowSchemas and PriorityLevelConfigurations that a
// cluster starts with: mandatory ones as they must be, suggested ones as long as nobody
// has changed them, and none that a former version made (KEP-1040).
type FlowControlDefaults struct {
	client  flowcontrolclient.FlowcontrolV1Interface
	schemas listers.FlowSchemaLister
	levels  listers.PriorityLevelConfigurationLister
	synced  []cache.InformerSynced
	changed chan struct{}
}

// NewFlowControlDefaults must be called before the informers start.
func NewFlowControlDefaults(client kubernetes.Interface, factory informers.SharedInformerFactory) (*FlowControlDefaults, error) {
	schemas, levels := factory.Flowcontrol().V1().FlowSchemas(), factory.Flowcontrol().V1().PriorityLevelConfigurations()
	d := &FlowControlDefaults{
		client: client.FlowcontrolV1(), schemas: schemas.Lister(), levels: levels.Lister(), changed: make(chan struct{}, 1),
		synced: []cache.InformerSynced{schemas.Informer().HasSynced, levels.Informer().HasSynced},
	}
	wake := func(any) {
		select {
		case d.changed <- struct{}{}:
		default:
		}
	}
	for _, informer := range []cache.SharedIndexInformer{schemas.Informer(), levels.Informer()} {
		// What is added is never less than what there should be.
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, obj any) { wake(obj) }, DeleteFunc: wake}); err != nil {
			return nil, fmt.Errorf("watch flow control: %w", err)
		}
	}
	return d, nil
}

// Ensure writes what is missing or wrong. The informers must have started.
func (d *FlowControlDefaults) Ensure(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), d.synced...) {
		return fmt.Errorf("caches of flow control did not fill: %w", context.Cause(ctx))
	}
	levels := ensurer.NewPriorityLevelConfigurationOps(d.client.PriorityLevelConfigurations(), d.levels)
	schemas := ensurer.NewFlowSchemaOps(d.client.FlowSchemas(), d.schemas)
	return errors.Join(
		ensurer.EnsureConfigurations(ctx, levels, bootstrap.SuggestedPriorityLevelConfigurations, ensurer.NewSuggestedEnsureStrategy[*flowcontrolv1.PriorityLevelConfiguration]()),
		ensurer.EnsureConfigurations(ctx, schemas, bootstrap.SuggestedFlowSchemas, ensurer.NewSuggestedEnsureStrategy[*flowcontrolv1.FlowSchema]()),
		ensurer.EnsureConfigurations(ctx, levels, bootstrap.MandatoryPriorityLevelConfigurations, ensurer.NewMandatoryEnsureStrategy[*flowcontrolv1.PriorityLevelConfiguration]()),
		ensurer.EnsureConfigurations(ctx, schemas, bootstrap.MandatoryFlowSchemas, ensurer.NewMandatoryEnsureStrategy[*flowcontrolv1.FlowSchema]()),
		ensurer.RemoveUnwantedObjects(ctx, schemas, slices.Concat(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas)),
		ensurer.RemoveUnwantedObjects(ctx, levels, slices.Concat(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations)),
	)
}

// Changed says that somebody changed or deleted flow control, so that Ensure has to
// look again.
func (d *FlowControlDefaults) Changed() <-chan struct{} { return d.changed }
