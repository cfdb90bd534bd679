package rights

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

const audit = `{"verb":"list","user":{"username":"a"},"objectRef":{"resource":"pods"},"responseStatus":{"code":200}}
{"verb":"patch","user":{"username":"a"},"objectRef":{"resource":"volumeattachments","subresource":"status","apiGroup":"storage.k8s.io"},"responseStatus":{"code":200}}
{"verb":"get","user":{"username":"a"},"objectRef":{"resource":"secrets"},"responseStatus":{"code":403}}
{"verb":"get","user":{"username":"b"},"requestURI":"/api"}
`

func TestRead(t *testing.T) {
	all, err := Read(strings.NewReader(audit))
	if err != nil {
		t.Fatal(err)
	}
	a := all["a"]
	if len(all) != 1 || len(a.Done) != 2 || len(a.Refused) != 1 || !a.Refused[Right{"", "secrets", "get"}] ||
		!a.Done[Right{"storage.k8s.io", "volumeattachments/status", "patch"}] {
		t.Errorf("read %+v", all)
	}
	if _, err := Read(strings.NewReader("x\n")); err == nil {
		t.Error("a line that is none: no error")
	}
}

func TestGranted(t *testing.T) {
	s := Granted([]rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "get"}},
		{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectrulesreviews"}, Verbs: []string{"create"}},
		{NonResourceURLs: []string{"/healthz"}, Verbs: []string{"get"}},
	})
	if len(s) != 2 || len(s.Wild()) != 0 {
		t.Errorf("granted: %v, wild: %v", s, s.Wild())
	}
	want := "| objects | verbs, used ones in bold |\n|---|---|\n| pods | get, **list** |\n"
	if got := Table(s, Set{{"", "pods", "list"}: true}); got != want {
		t.Errorf("table:\n%s", got)
	}
	for _, r := range []rbacv1.PolicyRule{
		{APIGroups: []string{"*"}, Resources: []string{"pods"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"pods/*"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"*"}},
	} {
		if len(Granted([]rbacv1.PolicyRule{r}).Wild()) != 1 {
			t.Errorf("%+v is not seen to be wild", r)
		}
	}
}
