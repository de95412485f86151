package kinds

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
)

// pluginConfigs are the configurations of admission plugins by their names; a plugin that
// has none runs with its defaults.
type pluginConfigs map[string][]byte

// ConfigFor implements admission.ConfigProvider.
func (c pluginConfigs) ConfigFor(plugin string) (io.Reader, error) {
	data, ok := c[plugin]
	if !ok {
		return nil, nil
	}
	return bytes.NewReader(data), nil
}

// CheckAdmissionFile names the first field of an AdmissionConfiguration that is wrong. What
// a plugin's own configuration says is the plugin's to check, when it starts.
func CheckAdmissionFile(path string) error {
	_, err := readAdmission(path)
	return err
}

// readAdmission reads an AdmissionConfiguration and the files it names; "" is no file.
func readAdmission(path string) (pluginConfigs, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("admission configuration: %w", err)
	}
	c, err := parseAdmission(data)
	if err == nil {
		var configs pluginConfigs
		if configs, err = configsOf(c, filepath.Dir(path)); err == nil {
			return configs, nil
		}
	}
	return nil, fmt.Errorf("admission configuration %s: %w", path, err)
}

var errNotAdmission = errors.New("it is no AdmissionConfiguration of apiserver.config.k8s.io")

// parseAdmission is strict: unknown fields are errors.
func parseAdmission(data []byte) (*apiserverapi.AdmissionConfiguration, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	object, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return nil, err
	}
	c, ok := object.(*apiserverapi.AdmissionConfiguration)
	if !ok {
		return nil, errNotAdmission
	}
	return c, nil
}

// configsOf finds the configuration of each plugin, in the file itself or in one beside it.
func configsOf(c *apiserverapi.AdmissionConfiguration, dir string) (pluginConfigs, error) {
	configs := pluginConfigs{}
	for i, p := range c.Plugins {
		at := field.NewPath("plugins").Index(i)
		if !slices.ContainsFunc(admissionOrder, func(known admissionPlugin) bool { return known.name == p.Name }) {
			return nil, field.Invalid(at.Child("name"), p.Name, "no such admission plugin runs here")
		}
		if _, twice := configs[p.Name]; twice {
			return nil, field.Duplicate(at.Child("name"), p.Name)
		}
		switch {
		case p.Configuration != nil:
			configs[p.Name] = p.Configuration.Raw
		case p.Path != "":
			file := p.Path
			if !filepath.IsAbs(file) {
				file = filepath.Join(dir, file)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, field.Invalid(at.Child("path"), p.Path, err.Error())
			}
			configs[p.Name] = data
		}
	}
	return configs, nil
}
