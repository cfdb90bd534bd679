// Package chart renders the Helm chart as Helm does and checks what comes out. It is a
// module of its own, so that strata does not depend on Helm.
//
// # What is checked
//
//   - Goldens: testdata/values holds values files for which testdata/golden holds what is
//     rendered. STRATA_UPDATE=1 writes them anew.
//   - Every object, for all of those values, decodes strictly into the type that the API
//     server has for it: no unknown field, no field twice.
//   - The schema refuses wrong values and says which.
//   - What holds over upgrades: the authority is kept, selectors and the immutable fields
//     of objects do not depend on values.
//   - What each service account may do, as one list (testdata/rights.txt).
//   - deploy/kubernetes is what the chart renders, and deploy/examples decodes.
//
// # What it does not do
//
// It talks to no API server; test/e2e does.
package chart
