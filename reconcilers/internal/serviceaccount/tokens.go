package serviceaccount

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/rutter-project/rutter/reconcilers/internal/engine"
)

// Token signs the token of an account that a Secret is to hold. It is good for as long as
// both are there.
type Token func(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error)

type tokens struct {
	client   kubernetes.Interface
	sign     Token
	ca       []byte
	accounts corelisters.ServiceAccountLister
	secrets  cache.Indexer
}

// NewTokens returns the controller of Secrets of type kubernetes.io/service-account-token:
// it puts token, CA bundle (PEM) and namespace into them, deletes them when their account
// is gone, and takes them off their account's list when they are. It is told of Secrets by
// their metadata, since the bus does not carry what is in them.
func NewTokens(client kubernetes.Interface, sign Token, ca []byte, source engine.Source, log zerolog.Logger) (*engine.Controller, error) {
	secrets := source.For(corev1.SchemeGroupVersion.WithResource("secrets"), &metav1.PartialObjectMetadata{})
	accounts := source.For(corev1.SchemeGroupVersion.WithResource("serviceaccounts"), &corev1.ServiceAccount{})
	r := &tokens{client: client, sign: sign, ca: ca, accounts: corelisters.NewServiceAccountLister(accounts.GetIndexer()), secrets: secrets.GetIndexer()}
	c := engine.NewController(r, workers, log)
	if err := c.Watch(secrets, forAccount); err != nil {
		return nil, err
	}
	return c, c.Watch(accounts, r.tokensOf)
}

func (r *tokens) Name() string { return "service-account-token" }

// forAccount names a Secret that says which account it is for.
func forAccount(_, obj any) []string {
	m, err := meta.Accessor(obj)
	if err != nil || m.GetAnnotations()[corev1.ServiceAccountNameKey] == "" {
		return nil
	}
	return engine.Self(nil, obj)
}

// tokensOf names the Secrets of an account that was made, changed or deleted.
func (r *tokens) tokensOf(_, obj any) []string {
	account, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return nil
	}
	found, err := r.secrets.ByIndex(cache.NamespaceIndex, account.Namespace)
	if err != nil {
		return nil
	}
	var keys []string
	for _, secret := range found {
		if m, err := meta.Accessor(secret); err == nil && m.GetAnnotations()[corev1.ServiceAccountNameKey] == account.Name {
			keys = append(keys, engine.Self(nil, secret)...)
		}
	}
	return keys
}

func (r *tokens) Reconcile(ctx context.Context, key string) error {
	namespace, secretName, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // a key that is no name can never become one
	}
	secret, err := r.client.CoreV1().Secrets(namespace).Get(ctx, secretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return r.forget(ctx, namespace, secretName)
	}
	if err != nil {
		return fmt.Errorf("read token secret %s: %w", key, err)
	}
	if secret.Type != corev1.SecretTypeServiceAccountToken || secret.DeletionTimestamp != nil {
		return nil
	}
	account, err := r.account(ctx, secret)
	switch {
	case err != nil:
		return fmt.Errorf("account of token secret %s: %w", key, err)
	case account == nil:
		err = r.client.CoreV1().Secrets(namespace).Delete(ctx, secretName, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID}})
	default:
		err = r.fill(ctx, account, secret)
	}
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // who changed it meanwhile has woken this controller
	}
	return fmt.Errorf("token secret %s: %w", key, err)
}

// account is the account that a Secret is for, nil if there is none. The server is asked
// before a Secret is called an orphan: its account may have been made a moment ago.
func (r *tokens) account(ctx context.Context, secret *corev1.Secret) (*corev1.ServiceAccount, error) {
	name, uid := secret.Annotations[corev1.ServiceAccountNameKey], types.UID(secret.Annotations[corev1.ServiceAccountUIDKey])
	account, err := r.accounts.ServiceAccounts(secret.Namespace).Get(name)
	if err == nil && (uid == "" || uid == account.UID) {
		return account, nil
	}
	account, err = r.client.CoreV1().ServiceAccounts(secret.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case uid != "" && uid != account.UID:
		return nil, nil // another account of the same name
	}
	return account, nil
}

// fill adds what a token's Secret lacks.
func (r *tokens) fill(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) error {
	data := secret.Data
	if bytes.Equal(data[corev1.ServiceAccountRootCAKey], r.ca) && len(data[corev1.ServiceAccountNamespaceKey]) > 0 && len(data[corev1.ServiceAccountTokenKey]) > 0 {
		return nil
	}
	if data == nil {
		data = map[string][]byte{}
	}
	data[corev1.ServiceAccountRootCAKey] = r.ca
	if len(data[corev1.ServiceAccountNamespaceKey]) == 0 {
		data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	}
	if len(data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := r.sign(ctx, account, secret)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	secret.Data = data
	secret.Annotations[corev1.ServiceAccountNameKey] = account.Name
	secret.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	_, err := r.client.CoreV1().Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{})
	return err
}

// forget takes a Secret that is gone off the lists of accounts.
func (r *tokens) forget(ctx context.Context, namespace, secretName string) error {
	found, err := r.accounts.ServiceAccounts(namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	gone := func(ref corev1.ObjectReference) bool { return ref.Name == secretName }
	for _, account := range found {
		if !slices.ContainsFunc(account.Secrets, gone) {
			continue
		}
		update := account.DeepCopy()
		update.Secrets = slices.DeleteFunc(update.Secrets, gone)
		_, err := r.client.CoreV1().ServiceAccounts(namespace).Update(ctx, update, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("take secret %s off service account %s/%s: %w", secretName, namespace, account.Name, err)
		}
	}
	return nil
}
