package chart

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// rights are what accounts may do: for each, lines of "where resource: verbs".
type rights map[string]map[string]map[string]bool

// rightsOf resolves the bindings among objects. A binding without its role, or a role that
// nobody is bound to, is an error.
func rightsOf(objects []runtime.Object) (rights, error) {
	rules := make(map[string][]rbacv1.PolicyRule)
	for _, o := range objects {
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			rules["ClusterRole "+o.Name] = o.Rules
		case *rbacv1.Role:
			rules["Role "+o.Name] = o.Rules
		}
	}
	all, bound := make(rights), make(map[string]bool)
	bind := func(where string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) error {
		key := ref.Kind + " " + ref.Name
		if rules[key] == nil {
			return fmt.Errorf("%s is bound and not there", key)
		}
		bound[key] = true
		for _, s := range subjects {
			all.add(s.Namespace+"/"+s.Name, where, rules[key])
		}
		return nil
	}
	for _, o := range objects {
		var err error
		switch o := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			err = bind("everywhere", o.RoleRef, o.Subjects)
		case *rbacv1.RoleBinding:
			err = bind("in "+o.Namespace, o.RoleRef, o.Subjects)
		}
		if err != nil {
			return nil, err
		}
	}
	for key := range rules {
		if !bound[key] {
			return nil, fmt.Errorf("nobody is bound to %s", key)
		}
	}
	return all, nil
}

func (r rights) add(account, where string, rules []rbacv1.PolicyRule) {
	if r[account] == nil {
		r[account] = make(map[string]map[string]bool)
	}
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				key := strings.TrimSuffix(resource+"."+group, ".") + ", " + where
				if r[account][key] == nil {
					r[account][key] = make(map[string]bool)
				}
				for _, v := range rule.Verbs {
					r[account][key][v] = true
				}
			}
		}
	}
}

func (r rights) String() string {
	var b strings.Builder
	for _, account := range slices.Sorted(maps.Keys(r)) {
		fmt.Fprintf(&b, "%s\n", account)
		for _, key := range slices.Sorted(maps.Keys(r[account])) {
			fmt.Fprintf(&b, "  %s: %s\n", key, strings.Join(slices.Sorted(maps.Keys(r[account][key])), " "))
		}
	}
	return b.String()
}

// reads tells whether verbs change nothing.
func reads(verbs map[string]bool) bool {
	for v := range verbs {
		if v != "get" && v != "list" && v != "watch" {
			return false
		}
	}
	return true
}

// TestRights: the list of what each account may do, for the eyes of those who review it,
// and what none ever may.
func TestRights(t *testing.T) {
	d := decoder(t)
	for name, r := range valuesFiles(t) {
		objects, _ := rendered(t, r)
		var decoded []runtime.Object
		for _, o := range objects {
			object, _, err := d.Decode(o.Text)
			if err != nil {
				t.Fatal(err)
			}
			decoded = append(decoded, object)
		}
		all, err := rightsOf(decoded)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == "snapshot-controller" { // the default values, and one account more
			compare(t, filepath.Join("testdata", "rights.txt"), all.String())
		}
		for account, keys := range all {
			for key, verbs := range keys {
				for _, never := range []string{"secrets", "*", "clusterrole", "serviceaccounts", "pods/exec", "nodes"} {
					// The provisioner looks up which node a pod was given to.
					if key == "nodes, everywhere" && account != "storage/strata-node" && reads(verbs) {
						continue
					}
					if strings.HasPrefix(key, never) || verbs["*"] || verbs["escalate"] || verbs["bind"] || verbs["impersonate"] {
						t.Errorf("%s: %s may %v %s", name, account, verbs, key)
					}
				}
			}
		}
		if all["storage/strata-store"] != nil {
			t.Errorf("%s: a store has rights in the cluster", name)
		}
	}
}

// TestEveryAccountIsThere: pods and bindings name accounts that the chart makes, unless
// values name others.
func TestEveryAccountIsThere(t *testing.T) {
	for name, r := range valuesFiles(t) {
		objects, _ := rendered(t, r)
		var text strings.Builder
		for _, o := range objects {
			text.WriteString(o.Text)
		}
		for _, p := range podsOf(t, objects) {
			account := p.spec.ServiceAccountName
			if account == "" || account == "given" {
				continue
			}
			if !strings.Contains(text.String(), "kind: ServiceAccount\nmetadata:\n  name: "+account+"\n") {
				t.Errorf("%s: %s has the account %s, which is not there", name, p.name, account)
			}
		}
	}
}
