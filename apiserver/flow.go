package apiserver

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	flowrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"

	"github.com/rutter-project/rutter/apiserver/internal/kinds"
	"github.com/rutter-project/rutter/apiserver/internal/serve"
)

// flow is API Priority and Fairness (KEP-1040): who waits for whom when there is more
// to do than the server can.
type flow struct {
	control  utilflowcontrol.Interface
	defaults *kinds.FlowControlDefaults
}

// newFlow must be called before the informers start.
func (s *Server) newFlow() (flow, error) {
	defaults, err := kinds.NewFlowControlDefaults(s.client, s.informers)
	if err != nil {
		return flow{}, err
	}
	control := utilflowcontrol.New(s.informers, s.client.FlowcontrolV1(), serve.MaxInFlight)
	return flow{control: control, defaults: defaults}, nil
}

// runFlow decides until ctx ends. What is in flight by then is let through.
func (s *Server) runFlow(ctx context.Context) error {
	filters.StartPriorityAndFairnessWatermarkMaintenance(ctx.Done()) // measures what is in flight and what waits
	return s.flow.control.Run(ctx.Done())
}

// keepFlowDefaults puts back, whenever flow control is changed, what must be there. What
// fails is tried again at the next change; requests are served by what there is.
func (s *Server) keepFlowDefaults(ctx context.Context) {
	for {
		select {
		case <-s.flow.defaults.Changed():
		case <-ctx.Done():
			return
		}
		if err := s.flow.defaults.Ensure(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn().Err(err).Msg("defaults of flow control not kept")
		}
	}
}

// workEstimator tells how many seats a request takes: a LIST more the more there is to
// list, a write more the more watch it.
func (s *Server) workEstimator() flowrequest.WorkEstimatorFunc {
	return flowrequest.NewWorkEstimator(s.objectStats, s.flow.control.GetInterestedWatchCount,
		flowrequest.DefaultWorkEstimatorConfig(), s.flow.control.GetMaxSeats)
}

// objectStats are how many objects there are of a resource, named as "pods" or
// "deployments.apps", and how long they are. Anybody may name what there is not.
func (s *Server) objectStats(resource string) (storage.Stats, error) {
	stats, ok := s.view.StatsOf(prefixOf(schema.ParseGroupResource(resource)))
	if !ok {
		return storage.Stats{}, flowrequest.ObjectCountNotFoundErr
	}
	return storage.Stats{
		ObjectCount:                     int64(stats.Objects),
		EstimatedAverageObjectSizeBytes: int64(stats.Bytes / max(1, stats.Objects)),
	}, nil
}
