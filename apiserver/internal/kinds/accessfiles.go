package kinds

import (
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiserverapi "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	kubeauthorizer "k8s.io/kubernetes/pkg/kubeapiserver/authorizer"
)

// authenticationFile is an AuthenticationConfiguration and the bytes it was read from.
type authenticationFile struct {
	path string
	data string
	*apiserverapi.AuthenticationConfiguration
}

// CheckAuthenticationFile names the first fields of an AuthenticationConfiguration that
// are wrong. issuer is the cluster's own, which no file may claim.
func CheckAuthenticationFile(path, issuer string) error {
	_, err := readAuthentication(path, issuer)
	return err
}

func readAuthentication(path, issuer string) (authenticationFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return authenticationFile{}, fmt.Errorf("authentication configuration: %w", err)
	}
	c, err := parseAuthentication(data, issuer)
	if err != nil {
		return authenticationFile{}, fmt.Errorf("authentication configuration %s: %w", path, err)
	}
	return authenticationFile{path: path, data: string(data), AuthenticationConfiguration: c}, nil
}

var errNotAuthentication = errors.New("it is no AuthenticationConfiguration of apiserver.config.k8s.io")

// parseAuthentication is strict: unknown fields are errors.
func parseAuthentication(data []byte, issuer string) (*apiserverapi.AuthenticationConfiguration, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	object, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return nil, err
	}
	c, ok := object.(*apiserverapi.AuthenticationConfiguration)
	if !ok {
		return nil, errNotAuthentication
	}
	wrong := validation.ValidateAuthenticationConfiguration(authenticationcel.NewDefaultCompiler(), c, []string{issuer})
	return c, wrong.ToAggregate()
}

// CheckAuthorizationFile names the first fields of an AuthorizationConfiguration that are
// wrong.
func CheckAuthorizationFile(path string) error {
	_, _, err := readAuthorization(path)
	return err
}

func readAuthorization(path string) (*apiserverapi.AuthorizationConfiguration, string, error) {
	c, data, err := kubeauthorizer.LoadAndValidateFile(path, authorizationcel.NewDefaultCompiler(), nil)
	if err != nil {
		return nil, "", fmt.Errorf("authorization configuration %s: %w", path, err)
	}
	return c, data, nil
}
