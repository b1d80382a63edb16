package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// functions are those of Terraform's that our files use. Most of Terraform's are these very ones.
func functions() map[string]function.Function {
	return map[string]function.Function{
		"alltrue":         every,
		"can":             tryfunc.CanFunc,
		"concat":          stdlib.ConcatFunc,
		"contains":        contains,
		"file":            file,
		"fileset":         fileset,
		"flatten":         stdlib.FlattenFunc,
		"format":          stdlib.FormatFunc,
		"join":            stdlib.JoinFunc,
		"jsondecode":      stdlib.JSONDecodeFunc,
		"jsonencode":      stdlib.JSONEncodeFunc,
		"length":          length,
		"lower":           stdlib.LowerFunc,
		"merge":           stdlib.MergeFunc,
		"regex":           stdlib.RegexFunc,
		"replace":         stdlib.ReplaceFunc,
		"setintersection": stdlib.SetIntersectionFunc,
		"tonumber":        to(cty.Number),
		"toset":           to(cty.Set(cty.DynamicPseudoType)),
		"tostring":        to(cty.String),
		"trimsuffix":      stdlib.TrimSuffixFunc,
		"try":             tryfunc.TryFunc,
		"values":          stdlib.ValuesFunc,
	}
}

func to(wanted cty.Type) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowNull: true}},
		Type: func(arguments []cty.Value) (cty.Type, error) {
			converted, err := convert.Convert(arguments[0], wanted)
			if err != nil {
				return cty.NilType, err
			}
			return converted.Type(), nil
		},
		Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
			return convert.Convert(arguments[0], wanted)
		},
	})
}

var length = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.Number),
	Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
		if arguments[0].Type() == cty.String {
			return stdlib.Strlen(arguments[0])
		}
		if !arguments[0].CanIterateElements() {
			return cty.NilVal, fmt.Errorf("neither a text nor a collection")
		}
		return cty.NumberIntVal(int64(arguments[0].LengthInt())), nil
	},
})

var contains = function.New(&function.Spec{
	Params: []function.Parameter{
		{Name: "list", Type: cty.DynamicPseudoType},
		{Name: "value", Type: cty.DynamicPseudoType},
	},
	Type: function.StaticReturnType(cty.Bool),
	Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
		if !arguments[0].CanIterateElements() {
			return cty.NilVal, fmt.Errorf("not a collection")
		}
		for iterator := arguments[0].ElementIterator(); iterator.Next(); {
			if _, element := iterator.Element(); element.RawEquals(arguments[1]) {
				return cty.True, nil
			}
		}
		return cty.False, nil
	},
})

var every = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "list", Type: cty.List(cty.Bool)}},
	Type:   function.StaticReturnType(cty.Bool),
	Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
		for iterator := arguments[0].ElementIterator(); iterator.Next(); {
			if _, element := iterator.Element(); element.False() {
				return cty.False, nil
			}
		}
		return cty.True, nil
	},
})

var file = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "path", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
		text, err := os.ReadFile(arguments[0].AsString())
		return cty.StringVal(string(text)), err
	},
})

var fileset = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "folder", Type: cty.String}, {Name: "pattern", Type: cty.String}},
	Type:   function.StaticReturnType(cty.Set(cty.String)),
	Impl: func(arguments []cty.Value, _ cty.Type) (cty.Value, error) {
		folder := arguments[0].AsString()
		found, err := filepath.Glob(filepath.Join(folder, arguments[1].AsString()))
		if err != nil || len(found) == 0 {
			return cty.SetValEmpty(cty.String), err
		}
		sort.Strings(found)
		var names []cty.Value
		for _, path := range found {
			name, err := filepath.Rel(folder, path)
			if err != nil {
				return cty.NilVal, err
			}
			names = append(names, cty.StringVal(name))
		}
		return cty.SetVal(names), nil
	},
})
