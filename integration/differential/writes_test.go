package differential

import "strings"

const (
	mapsInW    = "/api/v1/namespaces/w/configmaps"
	deploysInW = "/apis/apps/v1/namespaces/w/deployments"
)

func configMap(name, more string) string {
	return "{apiVersion: v1, kind: ConfigMap, metadata: {name: " + name + more + "}, data: {a: '1'}}"
}

func deployment(name string) string {
	return "{apiVersion: apps/v1, kind: Deployment, metadata: {name: " + name + "}, spec: {replicas: 2, selector: {matchLabels: {app: " + name + "}}, " +
		"template: {metadata: {labels: {app: " + name + "}}, spec: {containers: [{name: c, image: i}]}}}}"
}

func creations() []request {
	unknown := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"NAME","fish":1},"data":{"a":"1","a":"2"},"unknown":true}`
	named := func(name string) option { return raw("application/json", strings.ReplaceAll(unknown, "NAME", name)) }
	return []request{
		post("create", mapsInW, configMap("a", "")),
		post("create again", mapsInW, configMap("a", "")),
		post("create generated", mapsInW, "{apiVersion: v1, kind: ConfigMap, metadata: {generateName: gen-}}", keep("generated", "metadata.name")),
		post("create generated and named", mapsInW, configMap("both", ", generateName: gen-")),
		post("create unnamed", mapsInW, "{apiVersion: v1, kind: ConfigMap}"),
		post("create bad name", mapsInW, configMap("Upper_Case", "")),
		post("create bad labels", mapsInW, configMap("labelled", ", labels: {'a b': c}, annotations: {'-': x}")),
		post("create bad owner", mapsInW, configMap("owned", ", ownerReferences: [{apiVersion: v1, kind: Pod, name: x}]")),
		post("create bad finalizer", mapsInW, configMap("final", ", finalizers: [fish]")),
		post("create other namespace", mapsInW, configMap("b", ", namespace: r")),
		post("create same namespace", mapsInW, configMap("b", ", namespace: w")),
		post("create no such namespace", "/api/v1/namespaces/nowhere/configmaps", configMap("b", "")),
		post("create without namespace", "/api/v1/configmaps", configMap("b", "")),
		post("create at name", mapsInW+"/x", configMap("x", "")),
		post("create wrong kind", mapsInW, pod("x", "{}", "")),
		post("create wrong version", mapsInW, "{apiVersion: v7, kind: ConfigMap, metadata: {name: x}}"),
		post("create wrong group", deploysInW, "{apiVersion: extensions/v1beta1, kind: Deployment, metadata: {name: x}}"),
		post("create no kind", mapsInW, "{metadata: {name: nokind}}"),
		post("create with rv", mapsInW, configMap("rv", ", resourceVersion: '5'")),
		post("create with uid", mapsInW, configMap("uid", ", uid: abc")),
		post("create with own fields", mapsInW, configMap("own", ", generation: 7, creationTimestamp: '2001-01-01T00:00:00Z', selfLink: x, managedFields: [{manager: m, operation: Update, apiVersion: v1}]")),
		post("create pretty", mapsInW+"?pretty=true", configMap("pretty", "")),
		post("create table", mapsInW, configMap("table", ""), accept(asTable)),
		post("create metadata", mapsInW, configMap("metadata", ""), accept(asMetadata)),
		post("create answers yaml", mapsInW, configMap("yaml", ""), accept(asYAML)),
		post("create answers protobuf", mapsInW, configMap("protobuf", ""), accept(asProtobuf)),
		post("create answers html", mapsInW, configMap("html", ""), accept("text/html")),
		post("create manager", mapsInW+"?fieldManager=tester", configMap("managed", "")),
		post("create manager too long", mapsInW+"?fieldManager="+strings.Repeat("m", 129), configMap("long", "")),
		post("create manager unprintable", mapsInW+"?fieldManager=a%07b", configMap("unprintable", "")),
		post("create dry", mapsInW+"?dryRun=All", configMap("dry", "")),
		get("create dry left nothing", mapsInW+"/dry"),
		post("create dry bad", mapsInW+"?dryRun=Some", configMap("dry", "")),
		post("create dry twice", mapsInW+"?dryRun=All&dryRun=All", configMap("dry", "")),
		post("create dry exists", mapsInW+"?dryRun=All", configMap("a", "")),
		post("create dry generated", mapsInW+"?dryRun=All", "{apiVersion: v1, kind: ConfigMap, metadata: {generateName: dry-}}", keep("dry", "metadata.name")),
		post("create unknown parameter", mapsInW+"?fish=1", configMap("parameter", "")),

		send("POST", "create field default", mapsInW, named("field-default")),
		send("POST", "create field ignore", mapsInW+"?fieldValidation=Ignore", named("field-ignore")),
		send("POST", "create field warn", mapsInW+"?fieldValidation=Warn", named("field-warn")),
		send("POST", "create field strict", mapsInW+"?fieldValidation=Strict", named("field-strict")),
		send("POST", "create field wrong", mapsInW+"?fieldValidation=Loose", named("field-wrong")),
		send("POST", "create field yaml strict", mapsInW+"?fieldValidation=Strict", raw(asYAML, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y, fish: 1}\ndata: {a: '1', a: '2'}\nx: y\n")),
		send("POST", "create field yaml warn", mapsInW+"?fieldValidation=Warn", raw(asYAML, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y, fish: 1}\ndata: {a: '1', a: '2'}\nx: y\n")),

		send("POST", "create yaml", mapsInW, raw(asYAML, "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-yaml\ndata:\n  a: b\n")),
		send("POST", "create bad yaml", mapsInW, raw(asYAML, "{]")),
		send("POST", "create yaml documents", mapsInW, raw(asYAML, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: two}\n")),
		send("POST", "create bad json", mapsInW, raw("application/json", `{"kind":`)),
		send("POST", "create trailing json", mapsInW, raw("application/json", configMapJSON("trailing")+`{}`)),
		send("POST", "create wrong type", mapsInW, raw("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t"},"data":{"a":1}}`)),
		send("POST", "create list", mapsInW, raw("application/json", `[1]`)),
		send("POST", "create null", mapsInW, raw("application/json", `null`)),
		send("POST", "create empty", mapsInW, raw("application/json", "")),
		send("POST", "create bad protobuf", mapsInW, raw(asProtobuf, "k8s\x00\xff\xff")),
		send("POST", "create not protobuf", mapsInW, raw(asProtobuf, "hello")),
		send("POST", "create bad cbor", mapsInW, raw(asCBOR, "\xd9\xd9\xf7\xa0")),
		send("POST", "create text", mapsInW, raw("text/plain", "hello")),
		send("POST", "create form", mapsInW, raw("application/x-www-form-urlencoded", "a=b")),
		send("POST", "create no type", mapsInW, raw("", configMapJSON("untyped"))),
		send("POST", "create charset", mapsInW, raw("application/json; charset=utf-8", configMapJSON("charset"))),
		send("POST", "create case", mapsInW, raw("application/json", `{"APIVERSION":"v1","Kind":"ConfigMap","metadata":{"Name":"case"}}`)),
		send("POST", "create deep", mapsInW, raw("application/json", strings.Repeat(`{"a":`, 20000)+"1"+strings.Repeat("}", 20000))),
		send("POST", "create too large", mapsInW, raw("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"large"},"data":{"a":"`+strings.Repeat("x", 3<<20)+`"}}`)),
		send("POST", "create too large for its kind", mapsInW, raw("application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"large"},"data":{"a":"`+strings.Repeat("x", 1<<20+1)+`"}}`)),
		send("POST", "create bad utf8", mapsInW, raw("application/json", "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"utf\"},\"data\":{\"a\":\"\xff\xfe\"}}")),
	}
}

func configMapJSON(name string) string {
	return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `"},"data":{"a":"1"}}`
}

func updates() []request {
	one := mapsInW + "/up"
	return []request{
		post("update make", mapsInW, configMap("up", ""), keep("rvOld", "metadata.resourceVersion")),
		put("update", one, configMap("up", ", labels: {x: y}"), keep("rvNew", "metadata.resourceVersion")),
		put("update same", one, configMap("up", ", labels: {x: y}")),
		put("update stale", one, configMap("up", ", resourceVersion: '${rvOld}'")),
		put("update with rv", one, configMap("up", ", resourceVersion: '${rvNew}', labels: {x: z}")),
		put("update rv word", one, configMap("up", ", resourceVersion: fish")),
		put("update other uid", one, configMap("up", ", uid: 11111111-2222-3333-4444-555555555555")),
		put("update other name", one, configMap("down", "")),
		put("update no name", one, "{apiVersion: v1, kind: ConfigMap, data: {a: '2'}}"),
		put("update other namespace", one, configMap("up", ", namespace: r")),
		put("update nobody", mapsInW+"/nobody", configMap("nobody", "")),
		put("update nobody with rv", mapsInW+"/nobody", configMap("nobody", ", resourceVersion: '5'")),
		put("update nobody with uid", mapsInW+"/nobody", configMap("nobody", ", uid: abc")),
		put("update all", mapsInW, configMap("up", "")),
		put("update dry", one+"?dryRun=All", configMap("up", ", labels: {dry: run}")),
		put("update wrong kind", one, pod("up", "{}", "")),
		put("update strict", one+"?fieldValidation=Strict", configMap("up", ", fish: 1")),
		put("update table", one, configMap("up", ", labels: {t: t}"), accept(asTable)),
		send("PUT", "update bad json", one, raw("application/json", "{")),
		send("PUT", "update empty", one, raw("application/json", "")),
		send("PUT", "update patch type", one, raw(mergePatch, "{}")),
		send("PUT", "update yaml", one, raw(asYAML, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: up}\n")),
		post("update make immutable", mapsInW, "{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed}, data: {a: '1'}, immutable: true}"),
		put("update immutable", mapsInW+"/fixed", "{apiVersion: v1, kind: ConfigMap, metadata: {name: fixed}, data: {a: '2'}, immutable: true}"),
		put("update pod spec", podP0, pod("p-0", "{app: web}", "node-9")),
		put("update pod image", podP0, strings.ReplaceAll(pod("p-0", "{app: web, tier: a}", ""), "image: i", "image: j, imagePullPolicy: Always, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File")),
		post("update make deployment", deploysInW, deployment("d")),
		put("update selector", deploysInW+"/d", strings.ReplaceAll(deployment("d"), "app: d", "app: e")),
		put("update deployment", deploysInW+"/d", strings.ReplaceAll(deployment("d"), "image: i", "image: j")),
		put("update deployment same", deploysInW+"/d", strings.ReplaceAll(deployment("d"), "image: i", "image: j")),
		put("update deployment status", deploysInW+"/d/status", strings.ReplaceAll(deployment("d"), "spec:", "status: {replicas: 2, conditions: [{type: Available, status: 'True'}]}, spec:")),
		get("update deployment after status", deploysInW+"/d"),
		put("update deployment status negative", deploysInW+"/d/status", strings.ReplaceAll(deployment("d"), "spec:", "status: {replicas: -2}, spec:")),
	}
}

func patches() []request {
	one, d := mapsInW+"/pat", deploysInW+"/pd"
	return []request{
		post("patch make", mapsInW, configMap("pat", ", labels: {x: y}")),
		post("patch make deployment", deploysInW, deployment("pd")),
		patch("patch json", jsonPatch, one, `[{op: add, path: /data/b, value: '2'}, {op: test, path: /data/a, value: '1'}, {op: remove, path: /metadata/labels/x}]`),
		patch("patch json test fails", jsonPatch, one, `[{op: test, path: /data/a, value: '9'}]`),
		patch("patch json no path", jsonPatch, one, `[{op: remove, path: /data/nothing}]`),
		patch("patch json bad op", jsonPatch, one, `[{op: jump, path: /data/a}]`),
		patch("patch json bad type", jsonPatch, one, `[{op: replace, path: /data, value: 5}]`),
		patch("patch json not list", jsonPatch, one, `{a: b}`),
		patch("patch json copy move", jsonPatch, one, `[{op: copy, from: /data/a, path: /data/c}, {op: move, from: /data/b, path: /data/d}]`),
		patch("patch json too many", jsonPatch, one, "["+strings.TrimSuffix(strings.Repeat("{op: test, path: /data/a, value: '1'},", 10001), ",")+"]"),
		patch("patch merge", mergePatch, one, `{data: {m: '1', c: null}}`),
		patch("patch merge nothing", mergePatch, one, `{}`),
		patch("patch merge list", mergePatch, one, `[1]`),
		patch("patch merge bad type", mergePatch, one, `{data: {a: 1}}`),
		patch("patch merge name", mergePatch, one, `{metadata: {name: other}}`),
		patch("patch merge uid", mergePatch, one, `{metadata: {uid: 11111111-2222-3333-4444-555555555555}}`),
		patch("patch merge stale", mergePatch, one, `{metadata: {resourceVersion: '1'}, data: {z: '1'}}`),
		patch("patch merge kind", mergePatch, one, `{kind: Secret}`),
		patch("patch merge invalid", mergePatch, one, `{metadata: {labels: {a: 'b c'}}}`),
		patch("patch merge unknown", mergePatch, one, `{fish: 1, data: {u: '1'}}`),
		patch("patch merge unknown strict", mergePatch, one+"?fieldValidation=Strict", `{fish: 1}`),
		patch("patch merge unknown ignore", mergePatch, one+"?fieldValidation=Ignore", `{fish: 1}`),
		patch("patch merge dry", mergePatch, one+"?dryRun=All", `{data: {dry: '1'}}`),
		patch("patch merge manager", mergePatch, one+"?fieldManager=m1", `{data: {f: '1'}}`),
		patch("patch merge force", mergePatch, one+"?force=true", `{data: {f: '1'}}`),
		patch("patch merge table", mergePatch, one, `{data: {f: '2'}}`, accept(asTable)),
		patch("patch merge metadata", mergePatch, one, `{data: {f: '3'}}`, accept(asMetadata)),
		patch("patch merge protobuf", mergePatch, one, `{data: {f: '4'}}`, accept(asProtobuf)),
		patch("patch nobody", mergePatch, mapsInW+"/nopatch", `{data: {a: b}}`),
		patch("patch all", mergePatch, mapsInW, `{data: {a: b}}`),
		patch("patch strategic", strategicPatch, d, `{spec: {template: {spec: {containers: [{name: c, image: k}, {name: side, image: s}]}}}}`),
		patch("patch strategic delete", strategicPatch, d, `{spec: {template: {spec: {containers: [{name: side, $patch: delete}]}}}}`),
		patch("patch strategic replace", strategicPatch, d, `{metadata: {labels: {$patch: replace, only: me}}}`),
		patch("patch strategic order", strategicPatch, d, `{spec: {template: {spec: {$setElementOrder/containers: [{name: z}, {name: c}], containers: [{name: z, image: z}]}}}}`),
		patch("patch strategic bad directive", strategicPatch, d, `{spec: {$patch: fish}}`),
		patch("patch strategic no key", strategicPatch, d, `{spec: {template: {spec: {containers: [{image: z}]}}}}`),
		patch("patch strategic empties", strategicPatch, d, `{spec: {template: {spec: {containers: null}}}}`),
		patch("patch strategic unknown strict", strategicPatch, d+"?fieldValidation=Strict", `{spec: {fish: 1}}`),
		patch("patch json deployment", jsonPatch, d, `[{op: replace, path: /spec/replicas, value: 5}]`),
		patch("patch status", mergePatch, d+"/status", `{status: {observedGeneration: 3}}`),
		patch("patch unknown type", "application/fish", one, `{}`),
		patch("patch plain json", "application/json", one, `{}`),
		send("PATCH", "patch no type", one, raw("", "{}")),
		send("PATCH", "patch bad json", one, raw(mergePatch, "{")),
		send("PATCH", "patch empty", one, raw(mergePatch, "")),
		send("PATCH", "patch strategic bad json", d, raw(strategicPatch, "{")),
		send("PATCH", "patch duplicate strict", one+"?fieldValidation=Strict", raw(mergePatch, `{"data":{"a":"1","a":"2"}}`)),
		send("PATCH", "patch too large", one, raw(mergePatch, `{"data":{"a":"`+strings.Repeat("x", 3<<20)+`"}}`)),
		patch("patch node label", mergePatch, "/api/v1/nodes/nobody", `{metadata: {labels: {a: b}}}`),
	}
}

func applies() []request {
	one := mapsInW + "/app"
	body := func(data string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {name: app}, data: {" + data + "}}"
	}
	d := func(replicas, image string) string {
		return strings.NewReplacer("replicas: 2", "replicas: "+replicas, "image: i", "image: "+image).Replace(deployment("ad"))
	}
	return []request{
		patch("apply creates", applyPatch, one+"?fieldManager=one", body("a: '1', b: '1'")),
		patch("apply same", applyPatch, one+"?fieldManager=one", body("a: '1', b: '1'")),
		patch("apply no manager", applyPatch, one, body("a: '1'")),
		patch("apply conflict", applyPatch, one+"?fieldManager=two", body("a: '2'")),
		patch("apply shared", applyPatch, one+"?fieldManager=two", body("a: '1'")),
		patch("apply force", applyPatch, one+"?fieldManager=two&force=true", body("a: '2'")),
		patch("apply force bad", applyPatch, one+"?fieldManager=two&force=x", body("a: '2'")),
		patch("apply drops", applyPatch, one+"?fieldManager=one", body("")),
		get("apply left", one),
		patch("apply dry", applyPatch, one+"?fieldManager=three&dryRun=All", body("c: '1'")),
		patch("apply managed fields", applyPatch, one+"?fieldManager=one", "{apiVersion: v1, kind: ConfigMap, metadata: {name: app, managedFields: [{manager: x}]}}"),
		patch("apply other name", applyPatch, one+"?fieldManager=one", configMap("other", "")),
		patch("apply no name", applyPatch, one+"?fieldManager=one", "{apiVersion: v1, kind: ConfigMap, data: {z: '1'}}"),
		patch("apply no kind", applyPatch, one+"?fieldManager=one", "{metadata: {name: app}}"),
		patch("apply other kind", applyPatch, one+"?fieldManager=one", pod("app", "{}", "")),
		patch("apply stale", applyPatch, one+"?fieldManager=one", configMap("app", ", resourceVersion: '1'")),
		patch("apply nobody with uid", applyPatch, mapsInW+"/app2?fieldManager=one", configMap("app2", ", uid: abc")),
		patch("apply unknown", applyPatch, one+"?fieldManager=one", "{apiVersion: v1, kind: ConfigMap, metadata: {name: app}, fish: 1}"),
		patch("apply unknown strict", applyPatch, one+"?fieldManager=one&fieldValidation=Strict", "{apiVersion: v1, kind: ConfigMap, metadata: {name: app}, fish: 1}"),
		send("PATCH", "apply bad yaml", one+"?fieldManager=one", raw(applyPatch, "{]")),
		send("PATCH", "apply empty", one+"?fieldManager=one", raw(applyPatch, "")),
		send("PATCH", "apply duplicate strict", one+"?fieldManager=one&fieldValidation=Strict", raw(applyPatch, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {a: '1', a: '2'}\n")),
		send("PATCH", "apply duplicate warn", one+"?fieldManager=one", raw(applyPatch, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {q: '1', q: '2'}\n")),
		send("PATCH", "apply cbor", one+"?fieldManager=one", raw("application/apply-patch+cbor", "\xa0")),
		patch("apply deployment", applyPatch, deploysInW+"/ad?fieldManager=one", d("2", "i")),
		patch("apply deployment scale", mergePatch, deploysInW+"/ad/scale?fieldManager=scaler", "{spec: {replicas: 4}}"),
		patch("apply deployment conflict", applyPatch, deploysInW+"/ad?fieldManager=one", d("3", "j")),
		patch("apply deployment force", applyPatch, deploysInW+"/ad?fieldManager=one&force=true", d("3", "j")),
		patch("apply deployment status", applyPatch, deploysInW+"/ad/status?fieldManager=st", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: ad}, status: {replicas: 3}}"),
		patch("apply scale", applyPatch, deploysInW+"/ad/scale?fieldManager=sc&force=true", "{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: ad}, spec: {replicas: 6}}"),
		patch("apply invalid", applyPatch, deploysInW+"/ad?fieldManager=one&force=true", strings.ReplaceAll(d("3", "j"), "name: c,", "name: C_C,")),
		patch("apply list keys twice", applyPatch, deploysInW+"/ad?fieldManager=one&force=true", strings.ReplaceAll(d("3", "j"), "{name: c, image: j}", "{name: c, image: j}, {name: c, image: k}")),
		get("apply deployment left", deploysInW+"/ad"),
	}
}

func deletions() []request {
	p := func(name string) string { return "/api/v1/namespaces/w/pods/" + name }
	options := func(more string) option {
		return object("{apiVersion: v1, kind: DeleteOptions, " + more + "}")
	}
	all := []request{}
	for _, name := range []string{"d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8"} {
		all = append(all, post("delete make "+name, mapsInW, configMap(name, ", labels: {set: del}"), keep("uid"+name, "metadata.uid"), keep("rv"+name, "metadata.resourceVersion")))
	}
	return append(all,
		del("delete", mapsInW+"/d1"),
		del("delete again", mapsInW+"/d1"),
		del("delete dry", mapsInW+"/d2?dryRun=All"),
		del("delete uid other", mapsInW+"/d2", options("preconditions: {uid: 11111111-2222-3333-4444-555555555555}")),
		del("delete rv other", mapsInW+"/d2", options("preconditions: {resourceVersion: '1'}")),
		del("delete preconditions", mapsInW+"/d2", options("preconditions: {uid: '${uidd2}', resourceVersion: '${rvd2}'}")),
		del("delete foreground", mapsInW+"/d3?propagationPolicy=Foreground"),
		get("delete foreground waits", mapsInW+"/d3"),
		del("delete orphan", mapsInW+"/d4?propagationPolicy=Orphan"),
		get("delete orphan waits", mapsInW+"/d4"),
		del("delete background", mapsInW+"/d5?propagationPolicy=Background"),
		del("delete policy unknown", mapsInW+"/d6?propagationPolicy=Fish"),
		del("delete policy and orphan", mapsInW+"/d6", options("propagationPolicy: Orphan, orphanDependents: true")),
		del("delete orphan dependents", mapsInW+"/d6?orphanDependents=true"),
		del("delete grace on configmap", mapsInW+"/d7?gracePeriodSeconds=5"),
		del("delete answers table", mapsInW+"/d8", accept(asTable)),
		send("DELETE", "delete bad body", mapsInW+"/a", raw("application/json", "{")),
		send("DELETE", "delete wrong body", mapsInW+"/a", raw("application/json", configMapJSON("a"))),
		send("DELETE", "delete text body", mapsInW+"/a", raw("text/plain", "x")),
		del("delete dry unknown", mapsInW+"/a?dryRun=x"),
		del("delete unknown option", mapsInW+"/a?dryRun=All", options("fish: 1")),
		del("delete read error option", mapsInW+"/a", options("ignoreStoreReadErrorWithClusterBreakingPotential: true")),
		post("delete make readable", mapsInW, configMap("readable", "")),
		del("delete readable unread", mapsInW+"/readable", options("ignoreStoreReadErrorWithClusterBreakingPotential: true")),
		del("delete readable unread dry", mapsInW+"/readable", options("ignoreStoreReadErrorWithClusterBreakingPotential: true, dryRun: [All]")),
		del("delete readable", mapsInW+"/readable"),
		del("delete nobody", mapsInW+"/nobody"),
		post("delete make finalized", mapsInW, configMap("fin", ", finalizers: [example.com/wait]")),
		del("delete finalized", mapsInW+"/fin"),
		del("delete finalized again", mapsInW+"/fin"),
		patch("delete finalizer added", mergePatch, mapsInW+"/fin", "{metadata: {finalizers: [example.com/wait, example.com/more]}}"),
		patch("delete finalizer removed", mergePatch, mapsInW+"/fin", "{metadata: {finalizers: null}}"),
		get("delete finalized gone", mapsInW+"/fin"),

		post("delete make pod unbound", "/api/v1/namespaces/w/pods", pod("unbound", "{}", "")),
		del("delete pod unbound", p("unbound")),
		post("delete make pod bound", "/api/v1/namespaces/w/pods", pod("bound", "{}", "node-1")),
		del("delete pod bound", p("bound")),
		del("delete pod bound shorter", p("bound")+"?gracePeriodSeconds=3"),
		del("delete pod bound longer", p("bound")+"?gracePeriodSeconds=60"),
		get("delete pod bound waits", p("bound")),
		del("delete pod negative", p("bound")+"?gracePeriodSeconds=-1"),
		del("delete pod word", p("bound")+"?gracePeriodSeconds=x"),
		del("delete pod now", p("bound"), options("gracePeriodSeconds: 0")),
		get("delete pod gone", p("bound")),

		del("deletecollection dry", mapsInW+"?labelSelector=set%3Ddel&dryRun=All"),
		del("deletecollection selected", mapsInW+"?labelSelector=set%3Ddel"),
		del("deletecollection none", mapsInW+"?labelSelector=set%3Dnone"),
		del("deletecollection field", mapsInW+"?fieldSelector=metadata.name%3Dpretty"),
		del("deletecollection bad selector", mapsInW+"?labelSelector=a%3D%3D%3Db"),
		del("deletecollection bad policy", mapsInW+"?propagationPolicy=x&labelSelector=set%3Dnone"),
		send("DELETE", "deletecollection bad body", mapsInW+"?labelSelector=set%3Dnone", raw("application/json", "{")),
		del("deletecollection everywhere", "/api/v1/configmaps?labelSelector=set%3Dnone"),
		del("deletecollection services", "/api/v1/namespaces/w/services"),
		del("deletecollection namespaces", "/api/v1/namespaces"),
		get("deletecollection left", mapsInW, accept(asTable)),
		del("delete deployment", deploysInW+"/d"),
	)
}
