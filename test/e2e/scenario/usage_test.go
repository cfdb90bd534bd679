package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/strata-csi/strata/test/e2e/rights"
)

// After all other scenarios: no account of strata was refused anything, none may do
// everything of a kind, and those of stores and nodes may do nothing. What each may do,
// and has done, is written down.
func TestAccounts(t *testing.T) {
	log, err := os.Open(up.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	used, err := rights.Read(log)
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := up.Client.CoreV1().ServiceAccounts(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var doc strings.Builder
	for _, a := range accounts.Items {
		user := "system:serviceaccount:" + namespace + ":" + a.Name
		granted, err := rightsOf(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		if wild := granted.Wild(); len(wild) > 0 {
			t.Errorf("%s may do everything of a kind: %v", a.Name, wild)
		}
		for r := range used[user].Refused {
			t.Errorf("%s was refused to %s %s.%s", a.Name, r.Verb, r.Resource, r.Group)
		}
		component := a.Labels["app.kubernetes.io/component"]
		if (component == "store" || component == "node") && len(granted) > 0 {
			t.Errorf("%s needs nothing and has %v", a.Name, granted)
		}
		rep.Say("account %s: %d rights, %d of them used", a.Name, len(granted), len(used[user].Done))
		fmt.Fprintf(&doc, "\n%s:\n\n%s", a.Name, rights.Table(granted, used[user].Done))
	}
	file := filepath.Join(os.Getenv("STRATA_E2E_WORK"), "accounts.md")
	if err := os.WriteFile(file, []byte(doc.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log(doc.String())
}

// rightsOf asks the API server, as the account itself, what it may do.
func rightsOf(ctx context.Context, user string) (rights.Set, error) {
	config := rest.CopyConfig(up.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	review, err = client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask for rights of %s: %w", user, err)
	}
	var rules []rbacv1.PolicyRule
	for _, r := range review.Status.ResourceRules {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: r.APIGroups, Resources: r.Resources, Verbs: r.Verbs})
	}
	return rights.Granted(rules), nil
}
