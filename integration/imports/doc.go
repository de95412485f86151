// Package imports keeps the import graph: which folder may import which, and which
// folder owns which outside dependency. It has tests only; every ban says why.
package imports
