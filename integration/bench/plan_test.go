package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func right() options {
	return options{only: "list,watch", objects: "10,20", watchers: "5", repeat: 1, writes: 1, informers: 1, deliveries: 1, events: 1, subscribers: 1}
}

func TestPlan(t *testing.T) {
	p, err := right().plan()
	require.NoError(t, err)
	require.Equal(t, []int{10, 20}, p.objects)
	require.True(t, p.has("watch"))
	require.False(t, p.has("start"))

	for name, tc := range map[string]struct {
		change func(*options)
		want   string
	}{
		"section":    {func(o *options) { o.only = "list,fish" }, `-only "fish": there is no such section; choose of memory,list,watch,informers,write,start,past,bus`},
		"word":       {func(o *options) { o.objects = "many" }, `-objects: "many" is not a number above 0`},
		"none":       {func(o *options) { o.watchers = "0" }, `-watchers: "0" is not a number above 0`},
		"descending": {func(o *options) { o.objects = "20,10" }, `-objects "20,10" is not ascending`},
		"events":     {func(o *options) { o.events = 0 }, "-events must be at least 1"},
		"repeat":     {func(o *options) { o.repeat = 0 }, "-repeat must be at least 1"},
	} {
		t.Run(name, func(t *testing.T) {
			o := right()
			tc.change(&o)
			_, err := o.plan()
			require.EqualError(t, err, tc.want)
		})
	}
}

func TestTable(t *testing.T) {
	var table table
	table.add("LIST", "ms", less, 10, 52.5)
	table.add("create", "per s", more, 300, 150)
	var out bytes.Buffer
	require.NoError(t, table.write(&out))
	require.Equal(t, "| what | unit | Rutter | kube-apiserver + etcd | better by |\n|---|---|---|---|---|\n"+
		"| LIST | ms | 10.0 | 52.5 | 5.2x |\n| create | per s | 300 | 150 | 2.0x |\n", out.String())
}

func TestNumber(t *testing.T) {
	for f, want := range map[float64]string{0: "0", 0.01234: "0.0123", 1.5: "1.50", 42: "42.0", 999.6: "1000", 12345: "12345"} {
		require.Equal(t, want, number(f))
	}
}

func TestQuantile(t *testing.T) {
	all := []time.Duration{5, 1, 4, 2, 3}
	require.Equal(t, time.Duration(3), quantile(all, 0.5))
	require.Equal(t, time.Duration(5), quantile(all, 0.99))
	require.Zero(t, quantile(nil, 0.5))
}

func TestPodIsJSON(t *testing.T) {
	var pod struct {
		Metadata struct{ Labels map[string]string }
		Spec     struct{ NodeName string }
	}
	require.NoError(t, json.Unmarshal([]byte(podJSON("p", 107)), &pod))
	require.Equal(t, "app-7", pod.Metadata.Labels["app"])
	require.Equal(t, "node-7", pod.Spec.NodeName)
}
