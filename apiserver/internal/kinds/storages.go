package kinds

import (
	"k8s.io/apiserver/pkg/registry/rest"
	mutatingpolicystore "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy/storage"
	mutatingpolicybindingstore "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding/storage"
	mutatingwebhookstore "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration/storage"
	admissionresolver "k8s.io/kubernetes/pkg/registry/admissionregistration/resolver"
	validatingpolicystore "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy/storage"
	validatingpolicybindingstore "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding/storage"
	validatingwebhookstore "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration/storage"
	controllerrevisionstore "k8s.io/kubernetes/pkg/registry/apps/controllerrevision/storage"
	daemonsetstore "k8s.io/kubernetes/pkg/registry/apps/daemonset/storage"
	deploymentstore "k8s.io/kubernetes/pkg/registry/apps/deployment/storage"
	replicasetstore "k8s.io/kubernetes/pkg/registry/apps/replicaset/storage"
	statefulsetstore "k8s.io/kubernetes/pkg/registry/apps/statefulset/storage"
	"k8s.io/kubernetes/pkg/registry/authentication/selfsubjectreview"
	"k8s.io/kubernetes/pkg/registry/authentication/tokenreview"
	"k8s.io/kubernetes/pkg/registry/authorization/localsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectrulesreview"
	"k8s.io/kubernetes/pkg/registry/authorization/subjectaccessreview"
	hpastore "k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler/storage"
	cronjobstore "k8s.io/kubernetes/pkg/registry/batch/cronjob/storage"
	jobstore "k8s.io/kubernetes/pkg/registry/batch/job/storage"
	csrstore "k8s.io/kubernetes/pkg/registry/certificates/certificates/storage"
	clustertrustbundlestore "k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle/storage"
	podcertificaterequeststore "k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest/storage"
	leasestore "k8s.io/kubernetes/pkg/registry/coordination/lease/storage"
	eventstore "k8s.io/kubernetes/pkg/registry/core/event/storage"
	endpointslicestore "k8s.io/kubernetes/pkg/registry/discovery/endpointslice/storage"
	flowschemastore "k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema/storage"
	prioritylevelstore "k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration/storage"
	ingressstore "k8s.io/kubernetes/pkg/registry/networking/ingress/storage"
	ingressclassstore "k8s.io/kubernetes/pkg/registry/networking/ingressclass/storage"
	ipaddressstore "k8s.io/kubernetes/pkg/registry/networking/ipaddress/storage"
	networkpolicystore "k8s.io/kubernetes/pkg/registry/networking/networkpolicy/storage"
	servicecidrstore "k8s.io/kubernetes/pkg/registry/networking/servicecidr/storage"
	runtimeclassstore "k8s.io/kubernetes/pkg/registry/node/runtimeclass/storage"
	pdbstore "k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	clusterrolepolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/policybased"
	clusterrolestore "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	clusterrolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/policybased"
	clusterrolebindingstore "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	rolepolicy "k8s.io/kubernetes/pkg/registry/rbac/role/policybased"
	rolestore "k8s.io/kubernetes/pkg/registry/rbac/role/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	rolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/policybased"
	rolebindingstore "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/storage"
	rbacvalidation "k8s.io/kubernetes/pkg/registry/rbac/validation"
	deviceclassstore "k8s.io/kubernetes/pkg/registry/resource/deviceclass/storage"
	devicetaintrulestore "k8s.io/kubernetes/pkg/registry/resource/devicetaintrule/storage"
	resourceclaimstore "k8s.io/kubernetes/pkg/registry/resource/resourceclaim/storage"
	resourceclaimtemplatestore "k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate/storage"
	resourceslicestore "k8s.io/kubernetes/pkg/registry/resource/resourceslice/storage"
	priorityclassstore "k8s.io/kubernetes/pkg/registry/scheduling/priorityclass/storage"
	csidriverstore "k8s.io/kubernetes/pkg/registry/storage/csidriver/storage"
	csinodestore "k8s.io/kubernetes/pkg/registry/storage/csinode/storage"
	csistoragecapacitystore "k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity/storage"
	storageclassstore "k8s.io/kubernetes/pkg/registry/storage/storageclass/storage"
	volumeattachmentstore "k8s.io/kubernetes/pkg/registry/storage/volumeattachment/storage"
	volumeattributesclassstore "k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass/storage"
	storagemigrationstore "k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration/storage"
	"k8s.io/utils/clock"
)

// builder collects storages and the first error.
type builder struct {
	r   resources
	err error
}

func newBuilder() *builder { return &builder{r: resources{}} }

func (b *builder) done() (resources, error) { return b.r, b.err }

// add1, add2 and add3 register what a storage constructor returned: the resource, its
// status, and one further subresource.
func add1[A rest.Storage](b *builder, name string) func(A, error) {
	return func(a A, err error) {
		if b.keep(err) {
			b.r[name] = a
		}
	}
}

func add2[A, S rest.Storage](b *builder, name string) func(A, S, error) {
	return func(a A, status S, err error) {
		if b.keep(err) {
			b.r[name], b.r[name+"/status"] = a, status
		}
	}
}

func add3[A, S, X rest.Storage](b *builder, name, sub string) func(A, S, X, error) {
	return func(a A, status S, x X, err error) {
		if b.keep(err) {
			b.r[name], b.r[name+"/status"], b.r[name+"/"+sub] = a, status, x
		}
	}
}

func (b *builder) keep(err error) bool {
	if err != nil && b.err == nil {
		b.err = err
	}
	return err == nil
}

func (c Config) apps() (resources, error) {
	b := newBuilder()
	if s, err := deploymentstore.NewStorage(c.Storage); b.keep(err) {
		b.r["deployments"], b.r["deployments/status"], b.r["deployments/scale"] = s.Deployment, s.Status, s.Scale
	}
	if s, err := statefulsetstore.NewStorage(c.Storage); b.keep(err) {
		b.r["statefulsets"], b.r["statefulsets/status"], b.r["statefulsets/scale"] = s.StatefulSet, s.Status, s.Scale
	}
	if s, err := replicasetstore.NewStorage(c.Storage); b.keep(err) {
		b.r["replicasets"], b.r["replicasets/status"], b.r["replicasets/scale"] = s.ReplicaSet, s.Status, s.Scale
	}
	add2[*daemonsetstore.REST, *daemonsetstore.StatusREST](b, "daemonsets")(daemonsetstore.NewREST(c.Storage))
	add1[*controllerrevisionstore.REST](b, "controllerrevisions")(controllerrevisionstore.NewREST(c.Storage))
	return b.done()
}

func (c Config) batch() (resources, error) {
	b := newBuilder()
	add2[*jobstore.REST, *jobstore.StatusREST](b, "jobs")(jobstore.NewREST(c.Storage))
	add2[*cronjobstore.REST, *cronjobstore.StatusREST](b, "cronjobs")(cronjobstore.NewREST(c.Storage))
	return b.done()
}

func (c Config) autoscaling() (resources, error) {
	b := newBuilder()
	add2[*hpastore.REST, *hpastore.StatusREST](b, "horizontalpodautoscalers")(hpastore.NewREST(c.Storage))
	return b.done()
}

func (c Config) certificates() (resources, error) {
	b := newBuilder()
	add3[*csrstore.REST, *csrstore.StatusREST, *csrstore.ApprovalREST](b, "certificatesigningrequests", "approval")(csrstore.NewREST(c.Storage))
	add1[*clustertrustbundlestore.REST](b, "clustertrustbundles")(clustertrustbundlestore.NewREST(c.Storage))
	add2[*podcertificaterequeststore.REST, *podcertificaterequeststore.StatusREST](b, "podcertificaterequests")(
		podcertificaterequeststore.NewREST(c.Storage, c.Authorizer, clock.RealClock{}))
	return b.done()
}

func (c Config) coordination() (resources, error) {
	b := newBuilder()
	add1[*leasestore.REST](b, "leases")(leasestore.NewREST(c.Storage))
	return b.done()
}

func (c Config) discovery() (resources, error) {
	b := newBuilder()
	add1[*endpointslicestore.REST](b, "endpointslices")(endpointslicestore.NewREST(c.Storage))
	return b.done()
}

func (c Config) events() (resources, error) {
	b := newBuilder()
	add1[*eventstore.REST](b, "events")(eventstore.NewREST(c.Storage, uint64(c.EventTTL.Seconds())))
	return b.done()
}

func (c Config) flowcontrol() (resources, error) {
	b := newBuilder()
	add2[*flowschemastore.REST, *flowschemastore.StatusREST](b, "flowschemas")(flowschemastore.NewREST(c.Storage))
	add2[*prioritylevelstore.REST, *prioritylevelstore.StatusREST](b, "prioritylevelconfigurations")(prioritylevelstore.NewREST(c.Storage))
	return b.done()
}

func (c Config) networking() (resources, error) {
	b := newBuilder()
	add1[*networkpolicystore.REST](b, "networkpolicies")(networkpolicystore.NewREST(c.Storage))
	add2[*ingressstore.REST, *ingressstore.StatusREST](b, "ingresses")(ingressstore.NewREST(c.Storage))
	add1[*ingressclassstore.REST](b, "ingressclasses")(ingressclassstore.NewREST(c.Storage))
	add1[*ipaddressstore.REST](b, "ipaddresses")(ipaddressstore.NewREST(c.Storage))
	add2[*servicecidrstore.REST, *servicecidrstore.StatusREST](b, "servicecidrs")(servicecidrstore.NewREST(c.Storage))
	return b.done()
}

func (c Config) node() (resources, error) {
	b := newBuilder()
	add1[*runtimeclassstore.REST](b, "runtimeclasses")(runtimeclassstore.NewREST(c.Storage))
	return b.done()
}

func (c Config) policy() (resources, error) {
	b := newBuilder()
	add2[*pdbstore.REST, *pdbstore.StatusREST](b, "poddisruptionbudgets")(pdbstore.NewREST(c.Storage))
	return b.done()
}

func (c Config) rbac() (resources, error) {
	b := newBuilder()
	roles, err := rolestore.NewREST(c.Storage)
	b.keep(err)
	roleBindings, err := rolebindingstore.NewREST(c.Storage)
	b.keep(err)
	clusterRoles, err := clusterrolestore.NewREST(c.Storage)
	b.keep(err)
	clusterRoleBindings, err := clusterrolebindingstore.NewREST(c.Storage)
	b.keep(err)
	if b.err != nil {
		return b.done()
	}
	resolver := rulesOfToday{rbacvalidation.NewDefaultRuleResolver(
		role.AuthorizerAdapter{Registry: role.NewRegistry(roles)},
		rolebinding.AuthorizerAdapter{Registry: rolebinding.NewRegistry(roleBindings)},
		clusterrole.AuthorizerAdapter{Registry: clusterrole.NewRegistry(clusterRoles)},
		clusterrolebinding.AuthorizerAdapter{Registry: clusterrolebinding.NewRegistry(clusterRoleBindings)},
	), c.Present}
	b.r["roles"] = rolepolicy.NewStorage(roles, c.Authorizer, resolver)
	b.r["rolebindings"] = rolebindingpolicy.NewStorage(roleBindings, c.Authorizer, resolver)
	b.r["clusterroles"] = clusterrolepolicy.NewStorage(clusterRoles, c.Authorizer, resolver)
	b.r["clusterrolebindings"] = clusterrolebindingpolicy.NewStorage(clusterRoleBindings, c.Authorizer, resolver)
	return b.done()
}

func (c Config) resource() (resources, error) {
	b := newBuilder()
	namespaces := c.Client.CoreV1().Namespaces()
	add1[*deviceclassstore.REST](b, "deviceclasses")(deviceclassstore.NewREST(c.Storage))
	add2[*devicetaintrulestore.REST, *devicetaintrulestore.StatusREST](b, "devicetaintrules")(devicetaintrulestore.NewRESTv1(c.Storage))
	add2[*resourceclaimstore.REST, *resourceclaimstore.StatusREST](b, "resourceclaims")(resourceclaimstore.NewREST(c.Storage, namespaces, c.Authorizer))
	add1[*resourceclaimtemplatestore.REST](b, "resourceclaimtemplates")(resourceclaimtemplatestore.NewREST(c.Storage, namespaces))
	add1[*resourceslicestore.REST](b, "resourceslices")(resourceslicestore.NewREST(c.Storage))
	return b.done()
}

func (c Config) scheduling() (resources, error) {
	b := newBuilder()
	add1[*priorityclassstore.REST](b, "priorityclasses")(priorityclassstore.NewREST(c.Storage))
	return b.done()
}

func (c Config) storage() (resources, error) {
	b := newBuilder()
	add1[*storageclassstore.REST](b, "storageclasses")(storageclassstore.NewREST(c.Storage))
	add1[*volumeattributesclassstore.REST](b, "volumeattributesclasses")(volumeattributesclassstore.NewREST(c.Storage))
	if s, err := volumeattachmentstore.NewStorage(c.Storage); b.keep(err) {
		b.r["volumeattachments"], b.r["volumeattachments/status"] = s.VolumeAttachment, s.Status
	}
	if s, err := csinodestore.NewStorage(c.Storage); b.keep(err) {
		b.r["csinodes"], b.r["csinodes/status"] = s.CSINode, s.Status
	}
	if s, err := csidriverstore.NewStorage(c.Storage); b.keep(err) {
		b.r["csidrivers"] = s.CSIDriver
	}
	if s, err := csistoragecapacitystore.NewStorage(c.Storage); b.keep(err) {
		b.r["csistoragecapacities"] = s.CSIStorageCapacity
	}
	return b.done()
}

func (c Config) storagemigration() (resources, error) {
	b := newBuilder()
	add2[*storagemigrationstore.REST, *storagemigrationstore.StatusREST](b, "storageversionmigrations")(storagemigrationstore.NewREST(c.Storage))
	return b.done()
}

func (c Config) admissionregistration() (resources, error) {
	b := newBuilder()
	resolver, err := admissionresolver.NewDiscoveryResourceResolver(c.Client.Discovery())
	if err != nil {
		return nil, err
	}
	add1[*validatingwebhookstore.REST](b, "validatingwebhookconfigurations")(validatingwebhookstore.NewREST(c.Storage))
	add1[*mutatingwebhookstore.REST](b, "mutatingwebhookconfigurations")(mutatingwebhookstore.NewREST(c.Storage))
	validating, status, err := validatingpolicystore.NewREST(c.Storage, c.Authorizer, resolver)
	add2[*validatingpolicystore.REST, *validatingpolicystore.StatusREST](b, "validatingadmissionpolicies")(validating, status, err)
	add1[*validatingpolicybindingstore.REST](b, "validatingadmissionpolicybindings")(
		validatingpolicybindingstore.NewREST(c.Storage, c.Authorizer, &validatingpolicybindingstore.DefaultPolicyGetter{Getter: validating}, resolver))
	mutating, err := mutatingpolicystore.NewREST(c.Storage, c.Authorizer, resolver)
	add1[*mutatingpolicystore.REST](b, "mutatingadmissionpolicies")(mutating, err)
	add1[*mutatingpolicybindingstore.REST](b, "mutatingadmissionpolicybindings")(
		mutatingpolicybindingstore.NewREST(c.Storage, c.Authorizer, &mutatingpolicybindingstore.DefaultPolicyGetter{Getter: mutating}, resolver))
	return b.done()
}

func (c Config) authentication() (resources, error) {
	return resources{
		"tokenreviews":       tokenreview.NewREST(reviewed{c.Authenticator}, c.Audiences),
		"selfsubjectreviews": selfsubjectreview.NewREST(),
	}, nil
}

func (c Config) authorization() (resources, error) {
	return resources{
		"subjectaccessreviews":      subjectaccessreview.NewREST(c.Reviews, Scheme()),
		"selfsubjectaccessreviews":  selfsubjectaccessreview.NewREST(c.Reviews, Scheme()),
		"localsubjectaccessreviews": localsubjectaccessreview.NewREST(c.Reviews, Scheme()),
		"selfsubjectrulesreviews":   selfsubjectrulesreview.NewREST(c.Rules),
	}, nil
}
