package kinds

import (
	"fmt"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	certificates "k8s.io/api/certificates/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	events "k8s.io/api/events/v1"
	flowcontrol "k8s.io/api/flowcontrol/v1"
	networking "k8s.io/api/networking/v1"
	node "k8s.io/api/node/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	resource "k8s.io/api/resource/v1"
	scheduling "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigration "k8s.io/api/storagemigration/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// resources are the storages of one group version by "resource" or "resource/subresource".
type resources map[string]rest.Storage

// groupOrder are the versions served, in the order of their priorities in discovery, which
// decide what a short name means when two groups know it.
var groupOrder = []schema.GroupVersion{
	core.SchemeGroupVersion,
	apiregistration.SchemeGroupVersion,
	apps.SchemeGroupVersion,
	events.SchemeGroupVersion,
	authentication.SchemeGroupVersion,
	authorization.SchemeGroupVersion,
	autoscalingv2.SchemeGroupVersion,
	autoscalingv1.SchemeGroupVersion,
	batch.SchemeGroupVersion,
	certificates.SchemeGroupVersion,
	networking.SchemeGroupVersion,
	policy.SchemeGroupVersion,
	rbac.SchemeGroupVersion,
	storagev1.SchemeGroupVersion,
	admissionregistration.SchemeGroupVersion,
	apiextensions.SchemeGroupVersion,
	scheduling.SchemeGroupVersion,
	coordination.SchemeGroupVersion,
	node.SchemeGroupVersion,
	discovery.SchemeGroupVersion,
	resource.SchemeGroupVersion,
	flowcontrol.SchemeGroupVersion,
	storagemigration.SchemeGroupVersion,
}

var served = func() map[schema.GroupVersion]bool {
	m := map[schema.GroupVersion]bool{}
	for _, gv := range groupOrder {
		m[gv] = true
	}
	return m
}()

// storages makes the storage of every served resource.
func (c Config) storages() (map[schema.GroupVersion]resources, error) {
	all := map[schema.GroupVersion]resources{}
	for gv, build := range map[schema.GroupVersion]func() (resources, error){
		core.SchemeGroupVersion:                  c.core,
		apps.SchemeGroupVersion:                  c.apps,
		batch.SchemeGroupVersion:                 c.batch,
		autoscalingv1.SchemeGroupVersion:         c.autoscaling,
		autoscalingv2.SchemeGroupVersion:         c.autoscaling,
		certificates.SchemeGroupVersion:          c.certificates,
		coordination.SchemeGroupVersion:          c.coordination,
		discovery.SchemeGroupVersion:             c.discovery,
		events.SchemeGroupVersion:                c.events,
		flowcontrol.SchemeGroupVersion:           c.flowcontrol,
		networking.SchemeGroupVersion:            c.networking,
		node.SchemeGroupVersion:                  c.node,
		policy.SchemeGroupVersion:                c.policy,
		rbac.SchemeGroupVersion:                  c.rbac,
		resource.SchemeGroupVersion:              c.resource,
		scheduling.SchemeGroupVersion:            c.scheduling,
		storagev1.SchemeGroupVersion:             c.storage,
		storagemigration.SchemeGroupVersion:      c.storagemigration,
		admissionregistration.SchemeGroupVersion: c.admissionregistration,
		authentication.SchemeGroupVersion:        c.authentication,
		authorization.SchemeGroupVersion:         c.authorization,
		apiextensions.SchemeGroupVersion:         c.apiextensions,
		apiregistration.SchemeGroupVersion:       c.apiregistration,
	} {
		r, err := build()
		if err != nil {
			return nil, fmt.Errorf("storages of %s: %w", gv, err)
		}
		all[gv] = r
	}
	guardBuiltIn(all)
	return all, nil
}

// Priority is where a group, and a version in it, stand in discovery.
type Priority struct{ Group, Version int32 }

// Priorities are those that kube-apiserver 1.37 gives the built-in versions in their
// APIServices. apiregistration.k8s.io itself has none.
func Priorities() map[schema.GroupVersion]Priority {
	return map[schema.GroupVersion]Priority{
		core.SchemeGroupVersion:                  {18000, 1},
		apps.SchemeGroupVersion:                  {17800, 15},
		events.SchemeGroupVersion:                {17750, 15},
		authentication.SchemeGroupVersion:        {17700, 15},
		authorization.SchemeGroupVersion:         {17600, 15},
		autoscalingv1.SchemeGroupVersion:         {17500, 15},
		autoscalingv2.SchemeGroupVersion:         {17500, 30},
		batch.SchemeGroupVersion:                 {17400, 15},
		certificates.SchemeGroupVersion:          {17300, 15},
		networking.SchemeGroupVersion:            {17200, 15},
		policy.SchemeGroupVersion:                {17100, 15},
		rbac.SchemeGroupVersion:                  {17000, 15},
		storagev1.SchemeGroupVersion:             {16800, 15},
		apiextensions.SchemeGroupVersion:         {16700, 15},
		admissionregistration.SchemeGroupVersion: {16700, 15},
		scheduling.SchemeGroupVersion:            {16600, 15},
		coordination.SchemeGroupVersion:          {16500, 15},
		node.SchemeGroupVersion:                  {16300, 15},
		discovery.SchemeGroupVersion:             {16200, 15},
		resource.SchemeGroupVersion:              {16200, 21},
		flowcontrol.SchemeGroupVersion:           {16100, 21},
		storagemigration.SchemeGroupVersion:      {15800, 15},
	}
}
