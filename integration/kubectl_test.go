package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rutter-project/rutter/integration/cluster"
)

// kubectlCase is one call of kubectl. Calls come in order, each sees what those before it
// have done.
type kubectlCase struct {
	line  string // arguments, separated by blanks; 'quoted ones' may contain some
	stdin string
	want  string // regular expression that the output matches; empty for any output
	code  int    // exit code
}

const manifest = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: shop/web:1, ports: [{containerPort: 8080}]}]
`

const node = `
apiVersion: v1
kind: Node
metadata: {name: made-up, labels: {disk: ssd}}
`

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: menus.shop.test}
spec:
  group: shop.test
  scope: Namespaced
  names: {plural: menus, singular: menu, kind: Menu, shortNames: [mn], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.cooks, statusReplicasPath: .status.cooks}}
    additionalPrinterColumns: [{name: Soup, type: string, jsonPath: .spec.soup}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [soup]
            properties: {soup: {type: string, description: What is in the pot., maxLength: 10}, cooks: {type: integer}}
          status: {type: object, properties: {cooks: {type: integer}}}
`

const menu = "apiVersion: shop.test/v1\nkind: Menu\nmetadata: {name: today}\nspec: {soup: leek, cooks: 1}\n"

var kubectlCases = map[string][]kubectlCase{
	"create": {
		{line: "create namespace shop", want: `^namespace/shop created\n$`},
		{line: "create namespace shop", want: `\(AlreadyExists\): namespaces "shop" already exists`, code: 1},
		{line: "create configmap menu --from-literal=soup=leek --from-literal=cake=plum", want: `^configmap/menu created`},
		{line: "create secret generic keys --from-literal=password=hidden", want: `^secret/keys created`},
		{line: "create secret docker-registry pull --docker-server=r.test --docker-username=u --docker-password=p", want: `^secret/pull created`},
		{line: "create deployment api --image=shop/api:1 --replicas=2 --port=80", want: `^deployment.apps/api created`},
		{line: "create service clusterip api --tcp=80:8080", want: `^service/api created`},
		{line: "create service nodeport outside --tcp=80:8080 --node-port=30999", want: `^service/outside created`},
		{line: "create service nodeport taken --tcp=80:8080 --node-port=30999", want: `nodePort.*provided port is already allocated`, code: 1},
		{line: "create service externalname far --external-name=far.test", want: `^service/far created`},
		{line: "create serviceaccount cook", want: `^serviceaccount/cook created`},
		{line: "create role reader --verb=get,list --resource=pods,configmaps", want: `^role.rbac.authorization.k8s.io/reader created`},
		{line: "create rolebinding reader --role=reader --serviceaccount=default:cook", want: `^rolebinding.rbac.authorization.k8s.io/reader created`},
		{line: "create clusterrole nodes --verb=get --resource=nodes", want: `created`},
		{line: "create clusterrolebinding nodes --clusterrole=nodes --user=jane", want: `created`},
		{line: "create quota small --hard=configmaps=20,pods=50", want: `^resourcequota/small created`},
		{line: "create priorityclass urgent --value=1000", want: `^priorityclass.scheduling.k8s.io/urgent created`},
		{line: "create ingress in --rule=shop.test/*=api:80", want: `^ingress.networking.k8s.io/in created`},
		{line: "create token cook --duration=10m", want: `(?m)^ey[\w-]+\.[\w-]+\.[\w-]+$`},
		{line: "create token nobody", want: `serviceaccounts "nobody" not found`, code: 1},
		{line: "create -f -", stdin: manifest, want: `^deployment.apps/web created`},
		{line: "create -f -", stdin: strings.Replace(manifest, "replicas:", "replica:", 1), want: `strict decoding error: unknown field "spec.replica"`, code: 1},
		{line: "create -f - --validate=warn", stdin: strings.Replace(strings.Replace(manifest, "replicas:", "replica:", 1), "name: web,", "name: warned,", 1), want: `(?s)Warning: unknown field "spec.replica".*created`},
		{line: "create -f -", stdin: definition, want: `menus.shop.test created`},
		{line: "wait --for=condition=Established crd/menus.shop.test --timeout=30s", want: `condition met`},
		{line: "create -f -", stdin: menu, want: `menu.shop.test/today created`},
		{line: "create -f -", stdin: strings.Replace(menu, "leek", "much too long a soup", 1), want: `spec.soup: Too long: may not be more than 10 bytes`, code: 1},
		{line: "create -f -", stdin: node, want: `node/made-up created`},
		{line: "run once --image=shop/once:1 --restart=Never --dry-run=server -o yaml", want: `(?s)kind: Pod.*name: once.*phase: Pending`},
		{line: "create deployment never --image=x --dry-run=client -o name", want: `^deployment.apps/never\n$`},
	},
	"get": {
		{line: "get deployments", want: `(?m)^NAME +READY +UP-TO-DATE +AVAILABLE +AGE\napi +0/2 +`},
		{line: "get deploy web -o wide", want: `CONTAINERS +IMAGES +SELECTOR\nweb +.*shop/web:1 +app=web`},
		{line: "get deploy,svc -o name", want: `(?s)^deployment.apps/api\n.*service/api\n`},
		{line: "get configmap menu -o yaml", want: `(?s)^apiVersion: v1\ndata:\n  cake: plum\n  soup: leek\nkind: ConfigMap\n`},
		{line: "get configmap menu -o json --show-managed-fields", want: `"manager": "kubectl-create"`},
		{line: "get configmap menu -o jsonpath={.data.soup}", want: `^leek$`},
		{line: "get configmap menu -o 'go-template={{range $k, $v := .data}}{{$k}}={{$v}} {{end}}'", want: `^cake=plum soup=leek $`},
		{line: "get configmaps -o custom-columns=N:.metadata.name,S:.data.soup --no-headers", want: `menu +leek`},
		{line: "get deploy -l app=web --show-labels", want: `app=web\n$`},
		{line: "get deploy -l 'app in (web,api),app!=api' -o name", want: `(?m)^deployment.apps/web$`},
		{line: "get deploy -l 'app==='", want: `unable to parse requirement`, code: 1},
		{line: "get secrets --field-selector type=Opaque -o name", want: `^secret/keys\n$`},
		{line: "get secrets --field-selector colour=red", want: `field label not supported: colour`, code: 1},
		{line: "get configmaps -A --sort-by=.metadata.name --chunk-size=1", want: `(?s)NAMESPACE +NAME.*default +kube-root-ca.crt.*default +menu`},
		{line: "get nothing", want: `the server doesn't have a resource type "nothing"`, code: 1},
		{line: "get configmap absent", want: `\(NotFound\): configmaps "absent" not found`, code: 1},
		{line: "get configmap absent --ignore-not-found", want: `^$`},
		{line: "get --raw /api/v1/namespaces/default/configmaps/menu", want: `"soup":"leek"`},
		{line: "get --raw /readyz", want: `^ok$`},
		{line: "get mn", want: `NAME +SOUP\ntoday +leek`},
		{line: "get all -o name", want: `(?s)service/api.*deployment.apps/web.*menu.shop.test/today`},
		{line: "get deploy web --subresource=scale -o jsonpath={.kind}/{.spec.replicas}", want: `^Scale/2$`},
		{line: "get deploy web --subresource=status -o name", want: `^deployment.apps/web`},
		{line: "get pods --watch --request-timeout=2s", want: ``},
		{line: "get node made-up -L disk", want: `made-up +\S+ +<none> .*ssd`},
	},
	"describe and explain": {
		{line: "describe deployment web", want: `(?s)Name: +web\n.*Replicas: +2 desired.*Image: +shop/web:1`},
		{line: "describe service api", want: `(?s)Type: +ClusterIP.*Port: +80-8080  80/TCP\nTargetPort: +8080/TCP`},
		{line: "describe secret keys", want: `password:  6 bytes`},
		{line: "describe node made-up", want: `(?s)Name: +made-up.*Non-terminated Pods:`},
		{line: "describe quota small", want: `(?s)configmaps +2 +20\npods +\d +50`},
		{line: "describe menu today", want: `(?s)Spec:\n  Cooks:  1\n  Soup:   leek`},
		{line: "describe clusterrole view", want: `(?s)PolicyRule:.*configmaps`},
		{line: "describe ingress in", want: `(?s)shop.test.*api:80`},
		{line: "describe sa cook", want: `Name: +cook`},
		{line: "explain deployment.spec.replicas", want: `(?s)KIND: +Deployment.*FIELD: replicas <integer>`},
		{line: "explain menu.spec", want: `(?s)soup\s<string> -required-\n    What is in the pot.`},
		{line: "explain pod --recursive", want: `topologySpreadConstraints`},
		{line: "explain pod.spec.nothing", want: `field "nothing" does not exist`, code: 1},
		{line: "api-resources --namespaced=false -o name", want: `(?m)^nodes$`},
		{line: "api-resources --api-group=shop.test", want: `menus +mn +shop.test/v1 +true +Menu`},
		{line: "api-versions", want: `(?m)^apps/v1$`},
		{line: "version -o json", want: `(?s)"serverVersion".*"major": "1"`},
		{line: "cluster-info", want: `Kubernetes control plane.* is running at`},
	},
	"change": {
		{line: "label configmap menu day=monday", want: `labeled`},
		{line: "label configmap menu day=tuesday", want: `already has a value \(monday\), and --overwrite is false`, code: 1},
		{line: "label configmap menu day=tuesday --overwrite --resource-version=1", want: `the object has been modified`, code: 1},
		{line: "label configmap menu day-", want: `unlabeled`},
		{line: "annotate deploy web kubernetes.io/change-cause=first", want: `annotated`},
		{line: `patch configmap menu -p '{"data":{"soup":"pea"}}'`, want: `^configmap/menu patched\n$`},
		{line: `patch configmap menu -p '{"data":{"soup":"pea"}}'`, want: `patched \(no change\)`},
		{line: `patch configmap menu --type=merge -p '{"data":{"cake":null}}'`, want: `patched`},
		{line: `patch configmap menu --type=json -p '[{"op":"test","path":"/data/soup","value":"leek"}]'`, want: `The request is invalid`, code: 1},
		{line: `patch configmap menu --type=json -p '[{"op":"add","path":"/data/cake","value":"nut"}]'`, want: `patched`},
		{line: `patch menu today --type=merge --subresource=status -p '{"status":{"cooks":3}}'`, want: `patched`},
		{line: "get menu today -o jsonpath={.spec.cooks},{.status.cooks}", want: `^1,3$`},
		{line: "scale menu today --replicas=4", want: `scaled`},
		{line: "scale deploy web --replicas=3 --current-replicas=7", want: `Expected replicas to be 7, was 2`, code: 1},
		{line: "scale deploy web --replicas=0", want: `^deployment.apps/web scaled`},
		{line: "autoscale deploy web --min=1 --max=3 --cpu=80%", want: `autoscaled`},
		{line: "expose deploy web --port=80 --target-port=8080", want: `^service/web exposed`},
		{line: "set image deploy/web web=shop/web:2", want: `image updated`},
		{line: "set env deploy/web COLOUR=red", want: `env updated`},
		{line: "set resources deploy web --limits=cpu=1,memory=64Mi", want: `resource requirements updated`},
		{line: "set serviceaccount deploy web cook", want: `serviceaccount updated`},
		{line: "set selector svc web app=other", want: `selector updated`},
		{line: "set subject clusterrolebinding nodes --user=joe", want: `subjects updated`},
		{line: "edit configmap menu", want: `^configmap/menu edited`},
		{line: "get configmap menu -o jsonpath={.data.soup}", want: `^tomato$`},
		{line: "replace -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: menu}\ndata: {soup: bean}\n", want: `^configmap/menu replaced`},
		{line: "replace --force -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: menu}\ndata: {soup: beet}\n", want: `(?s)configmap "menu" deleted.*configmap/menu replaced`},
	},
	"apply": {
		{line: "apply -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '1', b: '2'}\n", want: `^configmap/applied created`},
		{line: "apply -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '1', b: '2'}\n", want: `unchanged`},
		{line: "diff -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '9', b: '2'}\n", want: `(?m)^-  a: "1"\n\+  a: "9"$`, code: 1},
		{line: "apply -f - --dry-run=server", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '9'}\n", want: `configured \(server dry run\)`},
		{line: "apply -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '3'}\n", want: `configured`},
		{line: "get configmap applied -o jsonpath={.data}", want: `^{"a":"3"}$`},
		{line: "apply view-last-applied configmap applied", want: `a: "3"`},
		{line: "apply --server-side -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: '1'}\n", want: `serverside-applied`},
		{line: "apply --server-side --field-manager=other -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: '2'}\n", want: `(?s)conflict with "kubectl": .data.a.*--force-conflicts`, code: 1},
		{line: "apply --server-side --field-manager=other --force-conflicts -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: '2'}\n", want: `serverside-applied`},
		{line: "apply -f - --prune -l pruned=yes --prune-allowlist=core/v1/ConfigMap", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: p1, labels: {pruned: 'yes'}}\n", want: `p1 created`},
		{line: "apply -f - --prune -l pruned=yes --prune-allowlist=core/v1/ConfigMap", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: p2, labels: {pruned: 'yes'}}\n", want: `(?s)p2 created.*p1 pruned`},
		{line: "apply -k KUSTOMIZATION", want: `configmap/made-by-kustomize created`},
		{line: "kustomize KUSTOMIZATION", want: `name: made-by-kustomize`},
	},
	"rollout": {
		{line: "rollout history deploy/web", want: `(?s)REVISION +CHANGE-CAUSE\n1 +`},
		{line: "rollout pause deploy/web", want: `paused`},
		{line: "rollout resume deploy/web", want: `resumed`},
		{line: "rollout undo deploy/web --to-revision=1", want: `rolled back`},
		{line: "get deploy web -o jsonpath={.spec.template.spec.containers[0].image}", want: `^shop/web:1$`},
		{line: "rollout restart deploy/web", want: `restarted`},
		{line: "rollout status deploy/api --timeout=1s", want: `(?s)Waiting for deployment.*timed out`, code: 1},
	},
	"nodes": {
		{line: "cordon made-up", want: `cordoned`},
		{line: "get node made-up", want: `SchedulingDisabled`},
		{line: "uncordon made-up", want: `uncordoned`},
		{line: "taint node made-up tired=yes:NoSchedule", want: `tainted`},
		{line: "taint node made-up tired-", want: `untainted`},
		{line: "drain made-up --timeout=30s", want: `drained`},
		{line: "top node", want: `Metrics API not available`, code: 1},
	},
	"access": {
		{line: "auth can-i get pods", want: `^yes\n$`},
		{line: "auth can-i get pods --as=system:serviceaccount:default:cook", want: `^yes\n$`},
		{line: "auth can-i delete pods --as=system:serviceaccount:default:cook", want: `^no\n$`, code: 1},
		{line: "auth can-i --list --as=system:serviceaccount:default:cook", want: `(?m)^pods +\[\] +\[\] +\[get list\]`},
		{line: "auth whoami", want: `(?m)^Username +admin`},
		{line: "get nodes --as=jane --as-group=cooks", want: `nodes is forbidden: User "jane" cannot list resource "nodes"`, code: 1},
		{line: "auth reconcile -f -", stdin: "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\nrules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]\n", want: `reconciled`},
		{line: "create -f -", stdin: "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: bad}\nspec: {request: bm8=, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}\n", want: `PEM block type must be CERTIFICATE REQUEST`, code: 1},
	},
	"wait and delete": {
		{line: "wait --for=jsonpath={.data.soup}=beet configmap/menu --timeout=10s", want: `condition met`},
		{line: "wait --for=delete configmap/absent --timeout=10s", want: ``},
		{line: "wait --for=condition=Available deploy/api --timeout=1s", want: `timed out waiting for the condition`, code: 1},
		{line: "events --for deploy/web", want: `ScalingReplicaSet`},
		{line: "delete deploy web --cascade=orphan", want: `deleted`},
		{line: "get rs -l app=web -o name", want: `replicaset.apps/web-`},
		{line: "delete rs -l app=web", want: `deleted`},
		{line: "delete deploy api --cascade=foreground --timeout=60s", want: `deleted`},
		{line: "get rs -l app=api -o name", want: `^$`},
		{line: "delete configmap menu applied ssa", want: `(?s)"menu" deleted.*"applied" deleted.*"ssa" deleted`},
		{line: "delete configmap absent", want: `not found`, code: 1},
		{line: "delete secrets --all --wait=false", want: `secret "keys" deleted`},
		{line: "delete crd menus.shop.test", want: `deleted`},
		{line: "get menus", want: `could not find the requested resource|doesn't have a resource type`, code: 1},
		{line: "delete node made-up", want: `deleted`},
		{line: "delete namespace shop --timeout=60s", want: `namespace "shop" deleted`},
	},
}

// kubectlOrder is the order of the groups above.
var kubectlOrder = []string{"create", "get", "describe and explain", "change", "apply", "rollout", "nodes", "access", "wait and delete"}

// TestKubectl: the commands of stock kubectl answer what they answer on kube-apiserver.
func TestKubectl(t *testing.T) {
	c := cluster.New(t, "--no-node")
	c.Start()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"kustomization.yaml": "resources: [map.yaml]\nnamePrefix: made-by-\n",
		"map.yaml":           "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kustomize}\n",
		"editor":             "#!/bin/sh\nsed -i 's/soup: pea/soup: tomato/' \"$1\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KUBE_EDITOR", filepath.Join(dir, "editor"))
	if len(kubectlOrder) != len(kubectlCases) {
		t.Fatal("a group is not run")
	}
	for _, group := range kubectlOrder {
		t.Run(group, func(t *testing.T) {
			for _, call := range kubectlCases[group] {
				out, err := c.TryKubectl(call.stdin, words(strings.ReplaceAll(call.line, "KUSTOMIZATION", dir))...)
				if code := exitCode(err); code != call.code || !regexp.MustCompile(call.want).MatchString(out) {
					t.Errorf("kubectl %s: exit code %d, want %d; output, which must match %q:\n%s", call.line, code, call.code, call.want, out)
				}
			}
		})
	}
}

// words splits a line at blanks that are not inside single quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 0 {
			out = append(out, strings.Fields(part)...)
			continue
		}
		before := strings.Split(line, "'")[i-1]
		if len(before) > 0 && before[len(before)-1] != ' ' {
			out[len(out)-1] += part
			continue
		}
		out = append(out, part)
	}
	return out
}
