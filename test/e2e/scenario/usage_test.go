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

// allowed are the rights that accounts of a component may have at most; of the others,
// test/chart compares them with a list. Stores need nothing of the API server, and
// nodes nothing but to tell users of their volumes.
func allowed() map[string]rights.Set {
	return map[string]rights.Set{
		"store": {},
		"node": {
			{Resource: "events", Verb: "create"}:                                                true,
			{Resource: "persistentvolumes", Verb: "get"}:                                        true,
			{Resource: "persistentvolumes", Verb: "list"}:                                       true,
			{Group: "snapshot.storage.k8s.io", Resource: "volumesnapshotcontents", Verb: "get"}: true,
		},
	}
}

// After all other scenarios: no account of strata was refused anything, none may do
// everything of a kind, and those of stores and nodes may do no more than they need.
// What each may do, and has done, is written down.
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
	// What every account may do, as those that have been given nothing.
	everybody, err := rightsOf(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	var doc strings.Builder
	for _, a := range accounts.Items {
		if a.Name == "default" {
			continue
		}
		user := "system:serviceaccount:" + namespace + ":" + a.Name
		granted, err := rightsOf(t.Context(), a.Name)
		if err != nil {
			t.Fatal(err)
		}
		for r := range everybody {
			delete(granted, r)
		}
		if wild := granted.Wild(); len(wild) > 0 {
			t.Errorf("%s may do everything of a kind: %v", a.Name, wild)
		}
		for r := range used[user].Refused {
			// A starting API server refuses what it allows later.
			if !used[user].Done[r] {
				t.Errorf("%s was refused to %s %s.%s", a.Name, r.Verb, r.Resource, r.Group)
			}
		}
		if most, ok := allowed()[a.Labels["app.kubernetes.io/component"]]; ok {
			for r := range granted {
				if !most[r] {
					t.Errorf("%s does not need to %s %s.%s", a.Name, r.Verb, r.Resource, r.Group)
				}
			}
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

// rightsOf asks the API server, as an account of strata's namespace, what it may do.
func rightsOf(ctx context.Context, account string) (rights.Set, error) {
	user := "system:serviceaccount:" + namespace + ":" + account
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
