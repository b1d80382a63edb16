package main

import (
	"fmt"
	"sort"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// Plan is what is printed.
type Plan struct {
	Resources []Resource            `json:"resources"`
	Variables map[string]Variable   `json:"variables"`
	Outputs   map[string]Output     `json:"outputs"`
	Locals    map[string]jsonValue  `json:"locals"`
	Settings  map[string]jsonObject `json:"settings"`
	// References by whom: the address of a block, and the roots that its expressions name.
	References map[string][]string `json:"references"`
}

// Resource is one instance of a resource block.
type Resource struct {
	Address   string     `json:"address"`
	Type      string     `json:"type"`
	Name      string     `json:"name"`
	Key       jsonValue  `json:"key"`
	File      string     `json:"file"`
	Line      int        `json:"line"`
	Values    jsonObject `json:"values"`
	Lifecycle jsonObject `json:"lifecycle"`
}

// Variable is one declaration.
type Variable struct {
	Description string    `json:"description"`
	Type        string    `json:"type"`
	Sensitive   bool      `json:"sensitive"`
	HasDefault  bool      `json:"has_default"`
	Value       jsonValue `json:"value"`
}

// Output is one output.
type Output struct {
	Description string    `json:"description"`
	Value       jsonValue `json:"value"`
}

type jsonValue struct{ cty.Value }

func (v jsonValue) MarshalJSON() ([]byte, error) {
	if v.Value == cty.NilVal {
		return []byte("null"), nil
	}
	return ctyjson.SimpleJSONValue{Value: v.Value}.MarshalJSON()
}

type jsonObject map[string]jsonValue

type module struct {
	folder    string
	sources   map[string][]byte
	computed  map[string][]string
	functions map[string]function.Function
	variables map[string]cty.Value
	locals    map[string]cty.Value
	resources map[string]map[string]cty.Value
}

func newModule(folder string, sources map[string][]byte, computed map[string][]string) *module {
	return &module{
		folder:    folder,
		sources:   sources,
		computed:  computed,
		functions: functions(),
		variables: map[string]cty.Value{},
		locals:    map[string]cty.Value{},
		resources: map[string]map[string]cty.Value{},
	}
}

// A step is what can be evaluated as soon as everything that it names is there.
type step struct {
	address string
	names   map[string]bool
	do      func() hcl.Diagnostics
}

func (m *module) plan(blocks []*hclsyntax.Block, values map[string]hcl.Expression) (*Plan, hcl.Diagnostics) {
	plan := &Plan{
		Variables: map[string]Variable{}, Outputs: map[string]Output{}, Locals: map[string]jsonValue{},
		Settings: map[string]jsonObject{}, References: map[string][]string{},
	}
	var steps []step
	for _, block := range blocks {
		switch block.Type {
		case "variable":
			if diagnostics := m.declare(block, values, plan); diagnostics.HasErrors() {
				return nil, diagnostics
			}
		case "locals":
			for name, attribute := range block.Body.Attributes {
				steps = append(steps, m.local(name, attribute, plan))
			}
		case "resource":
			steps = append(steps, m.resource(block, plan))
		case "output":
			steps = append(steps, m.output(block, plan))
		case "terraform", "provider":
			steps = append(steps, m.setting(block, plan))
		default:
			return nil, problem(block.DefRange(), "%s blocks are not evaluated here: teach this program or do without", block.Type)
		}
	}
	for name, expression := range values {
		if _, declared := plan.Variables[name]; !declared {
			return nil, problem(expression.Range(), "no variable %q is declared", name)
		}
	}
	for _, block := range blocks {
		if block.Type == "variable" {
			if diagnostics := m.refuses(block); diagnostics.HasErrors() {
				return nil, diagnostics
			}
		}
	}
	for _, each := range steps {
		for name := range each.names {
			plan.References[each.address] = append(plan.References[each.address], name)
		}
		sort.Strings(plan.References[each.address])
	}
	if diagnostics := m.run(steps); diagnostics.HasErrors() {
		return nil, diagnostics
	}
	sort.Slice(plan.Resources, func(a, b int) bool { return plan.Resources[a].Address < plan.Resources[b].Address })
	return plan, nil
}

// run takes the steps in the order of their needs. What needs something that nobody makes is evaluated last, for the
// error that says so.
func (m *module) run(steps []step) hcl.Diagnostics {
	todo := map[string]bool{}
	for _, each := range steps {
		todo[each.address] = true
	}
	for len(steps) > 0 {
		var later []step
		for _, each := range steps {
			waits := false
			for name := range each.names {
				waits = waits || (todo[name] && name != each.address)
			}
			if waits {
				later = append(later, each)
				continue
			}
			if diagnostics := each.do(); diagnostics.HasErrors() {
				return diagnostics
			}
			delete(todo, each.address)
		}
		if len(later) == len(steps) {
			return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "a circle of references through " + steps[0].address}}
		}
		steps = later
	}
	return nil
}

func (m *module) declare(block *hclsyntax.Block, values map[string]hcl.Expression, plan *Plan) hcl.Diagnostics {
	name := block.Labels[0]
	context := m.context(nil)
	variable := Variable{}
	wanted, defaults := cty.DynamicPseudoType, (*typeexpr.Defaults)(nil)
	if attribute, ok := block.Body.Attributes["type"]; ok {
		var diagnostics hcl.Diagnostics
		wanted, defaults, diagnostics = typeexpr.TypeConstraintWithDefaults(attribute.Expr)
		if diagnostics.HasErrors() {
			return diagnostics
		}
		variable.Type = m.text(attribute.Expr.Range())
	}
	value := cty.NilVal
	for _, key := range []string{"description", "sensitive", "default"} {
		attribute, ok := block.Body.Attributes[key]
		if !ok {
			continue
		}
		found, diagnostics := attribute.Expr.Value(context)
		if diagnostics.HasErrors() {
			return diagnostics
		}
		switch key {
		case "description":
			variable.Description = found.AsString()
		case "sensitive":
			variable.Sensitive = found.True()
		case "default":
			variable.HasDefault, value = true, found
		}
	}
	if expression, ok := values[name]; ok {
		found, diagnostics := expression.Value(context)
		if diagnostics.HasErrors() {
			return diagnostics
		}
		value = found
	}
	if value == cty.NilVal {
		return problem(block.DefRange(), "variable %q has no value: neither a default nor one in the file", name)
	}
	if defaults != nil && !value.IsNull() {
		value = defaults.Apply(value)
	}
	value, err := convert.Convert(value, wanted)
	if err != nil {
		return problem(block.DefRange(), "variable %q: %s", name, err)
	}
	m.variables[name] = value
	variable.Value = jsonValue{value}
	plan.Variables[name] = variable
	return nil
}

// refuses says whether a value breaks a validation; these may name other variables, so all have to be declared.
func (m *module) refuses(block *hclsyntax.Block) hcl.Diagnostics {
	for _, inner := range block.Body.Blocks {
		holds, diagnostics := inner.Body.Attributes["condition"].Expr.Value(m.context(nil))
		if diagnostics.HasErrors() {
			return diagnostics
		}
		if holds.False() {
			message, diagnostics := inner.Body.Attributes["error_message"].Expr.Value(m.context(nil))
			if diagnostics.HasErrors() {
				return diagnostics
			}
			return problem(block.DefRange(), "variable %q is refused: %s", block.Labels[0], message.AsString())
		}
	}
	return nil
}

func (m *module) local(name string, attribute *hclsyntax.Attribute, plan *Plan) step {
	return step{"local." + name, roots(attribute.Expr), func() hcl.Diagnostics {
		value, diagnostics := attribute.Expr.Value(m.context(nil))
		if !diagnostics.HasErrors() {
			m.locals[name] = value
			plan.Locals[name] = jsonValue{value}
		}
		return diagnostics
	}}
}

func (m *module) output(block *hclsyntax.Block, plan *Plan) step {
	return step{"output." + block.Labels[0], rootsOf(block.Body), func() hcl.Diagnostics {
		values, diagnostics := m.body(block.Body, m.context(nil), nil)
		if !diagnostics.HasErrors() {
			output := Output{Value: jsonValue{values["value"]}}
			if description, ok := values["description"]; ok {
				output.Description = description.AsString()
			}
			plan.Outputs[block.Labels[0]] = output
		}
		return diagnostics
	}}
}

func (m *module) setting(block *hclsyntax.Block, plan *Plan) step {
	address := strings.Join(append([]string{block.Type}, block.Labels...), ".")
	return step{address, rootsOf(block.Body), func() hcl.Diagnostics {
		values, diagnostics := m.body(block.Body, m.context(nil), nil)
		plan.Settings[address] = objectOf(values)
		return diagnostics
	}}
}

func (m *module) resource(block *hclsyntax.Block, plan *Plan) step {
	kind, name := block.Labels[0], block.Labels[1]
	address := kind + "." + name
	return step{address, rootsOf(block.Body), func() hcl.Diagnostics {
		keys, repeated, diagnostics := m.instances(block)
		if diagnostics.HasErrors() {
			return diagnostics
		}
		known := map[string]cty.Value{}
		var order []cty.Value
		for _, instance := range keys {
			values, diagnostics := m.body(block.Body, m.context(instance.scope), resourceArguments)
			if diagnostics.HasErrors() {
				return diagnostics
			}
			own := address + instance.suffix
			plan.Resources = append(plan.Resources, Resource{
				Address: own, Type: kind, Name: name, Key: jsonValue{instance.key},
				File: block.TypeRange.Filename, Line: block.TypeRange.Start.Line,
				Values: objectOf(values), Lifecycle: m.lifecycle(block),
			})
			whole := cty.ObjectVal(m.withComputed(own, kind, values))
			known[instance.suffix] = whole
			order = append(order, whole)
		}
		if m.resources[kind] == nil {
			m.resources[kind] = map[string]cty.Value{}
		}
		switch repeated {
		case "":
			m.resources[kind][name] = order[0]
		case "count":
			m.resources[kind][name] = cty.TupleVal(order)
		default:
			byKey := map[string]cty.Value{}
			for index, instance := range keys {
				byKey[instance.key.AsString()] = order[index]
			}
			m.resources[kind][name] = cty.ObjectVal(byKey)
		}
		return nil
	}}
}

type instance struct {
	key    cty.Value
	suffix string
	scope  map[string]cty.Value
}

func (m *module) instances(block *hclsyntax.Block) ([]instance, string, hcl.Diagnostics) {
	if attribute, ok := block.Body.Attributes["count"]; ok {
		value, diagnostics := attribute.Expr.Value(m.context(nil))
		if diagnostics.HasErrors() {
			return nil, "", diagnostics
		}
		number, _ := value.AsBigFloat().Int64()
		var found []instance
		for index := int64(0); index < number; index++ {
			key := cty.NumberIntVal(index)
			scope := map[string]cty.Value{"count": cty.ObjectVal(map[string]cty.Value{"index": key})}
			found = append(found, instance{key, fmt.Sprintf("[%d]", index), scope})
		}
		return found, "count", nil
	}
	attribute, ok := block.Body.Attributes["for_each"]
	if !ok {
		return []instance{{cty.NilVal, "", nil}}, "", nil
	}
	value, diagnostics := attribute.Expr.Value(m.context(nil))
	if diagnostics.HasErrors() {
		return nil, "", diagnostics
	}
	kind := value.Type()
	if !kind.IsMapType() && !kind.IsObjectType() && !(kind.IsSetType() && kind.ElementType() == cty.String) {
		return nil, "", problem(attribute.Expr.Range(), "for_each takes a map or a set of strings, not %s", kind.FriendlyName())
	}
	var found []instance
	for iterator := value.ElementIterator(); iterator.Next(); {
		key, element := iterator.Element()
		scope := map[string]cty.Value{"each": cty.ObjectVal(map[string]cty.Value{"key": key, "value": element})}
		if kind.IsSetType() {
			key = element
			scope["each"] = cty.ObjectVal(map[string]cty.Value{"key": element, "value": element})
		}
		found = append(found, instance{key, fmt.Sprintf("[%q]", key.AsString()), scope})
	}
	return found, "for_each", nil
}

// resourceArguments belong to Terraform, not to the resource.
var resourceArguments = map[string]bool{
	"for_each": true, "count": true, "depends_on": true, "lifecycle": true, "provider": true, "provisioner": true,
}

// body evaluates attributes and nested blocks, dynamic ones included; blocks of a type become one tuple.
func (m *module) body(body *hclsyntax.Body, context *hcl.EvalContext, skip map[string]bool) (map[string]cty.Value, hcl.Diagnostics) {
	values := map[string]cty.Value{}
	for name, attribute := range body.Attributes {
		if skip[name] {
			continue
		}
		value, diagnostics := attribute.Expr.Value(context)
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		if !value.IsNull() {
			values[name] = value
		}
	}
	blocks := map[string][]cty.Value{}
	for _, block := range body.Blocks {
		if skip[block.Type] {
			continue
		}
		if block.Type != "dynamic" {
			inner, diagnostics := m.body(block.Body, context, nil)
			if diagnostics.HasErrors() {
				return nil, diagnostics
			}
			blocks[block.Type] = append(blocks[block.Type], cty.ObjectVal(inner))
			continue
		}
		made, diagnostics := m.dynamic(block, context)
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		blocks[block.Labels[0]] = append(blocks[block.Labels[0]], made...)
	}
	for name, found := range blocks {
		if len(found) > 0 {
			values[name] = cty.TupleVal(found)
		}
	}
	return values, nil
}

func (m *module) dynamic(block *hclsyntax.Block, context *hcl.EvalContext) ([]cty.Value, hcl.Diagnostics) {
	collection, diagnostics := block.Body.Attributes["for_each"].Expr.Value(context)
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	var made []cty.Value
	for iterator := collection.ElementIterator(); iterator.Next(); {
		key, element := iterator.Element()
		scope := context.NewChild()
		scope.Variables = map[string]cty.Value{
			block.Labels[0]: cty.ObjectVal(map[string]cty.Value{"key": key, "value": element}),
		}
		inner, diagnostics := m.body(block.Body.Blocks[0].Body, scope, nil)
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		made = append(made, cty.ObjectVal(inner))
	}
	return made, nil
}

// lifecycle has no expressions: names stand for themselves.
func (m *module) lifecycle(block *hclsyntax.Block) jsonObject {
	found := jsonObject{}
	for _, inner := range block.Body.Blocks {
		if inner.Type == "lifecycle" {
			for name, attribute := range inner.Body.Attributes {
				found[name] = jsonValue{cty.StringVal(m.text(attribute.Expr.Range()))}
			}
		}
	}
	return found
}

func (m *module) withComputed(address, kind string, values map[string]cty.Value) map[string]cty.Value {
	whole := map[string]cty.Value{}
	for _, name := range m.computed[kind] {
		whole[name] = cty.StringVal(fmt.Sprintf("${%s.%s}", address, name))
	}
	for name, value := range values {
		whole[name] = value
	}
	switch kind {
	case "google_service_account":
		// Known before anything is made, and the names by which everything else knows the account.
		email := fmt.Sprintf("%s@%s.iam.gserviceaccount.com", whole["account_id"].AsString(), m.variables["project_id"].AsString())
		whole["email"] = cty.StringVal(email)
		whole["member"] = cty.StringVal("serviceAccount:" + email)
	case "google_compute_ha_vpn_gateway":
		whole["vpn_interfaces"] = cty.TupleVal([]cty.Value{
			cty.ObjectVal(map[string]cty.Value{"ip_address": cty.StringVal("${" + address + ".vpn_interfaces[0].ip_address}")}),
			cty.ObjectVal(map[string]cty.Value{"ip_address": cty.StringVal("${" + address + ".vpn_interfaces[1].ip_address}")}),
		})
	}
	return whole
}

func (m *module) context(scope map[string]cty.Value) *hcl.EvalContext {
	names := map[string]cty.Value{
		"var":   cty.ObjectVal(m.variables),
		"local": cty.ObjectVal(m.locals),
		"path":  cty.ObjectVal(map[string]cty.Value{"module": cty.StringVal(m.folder), "root": cty.StringVal(m.folder)}),
	}
	for kind, byName := range m.resources {
		names[kind] = cty.ObjectVal(byName)
	}
	for name, value := range scope {
		names[name] = value
	}
	return &hcl.EvalContext{Variables: names, Functions: m.functions}
}

func (m *module) text(where hcl.Range) string {
	return string(where.SliceBytes(m.sources[where.Filename]))
}

func objectOf(values map[string]cty.Value) jsonObject {
	object := jsonObject{}
	for name, value := range values {
		object[name] = jsonValue{value}
	}
	return object
}

// rootsOf names what the expressions of a body need, depends_on included, which orders what Terraform makes.
func rootsOf(body *hclsyntax.Body) map[string]bool {
	found := map[string]bool{}
	for _, attribute := range body.Attributes {
		for name := range roots(attribute.Expr) {
			found[name] = true
		}
	}
	for _, block := range body.Blocks {
		if block.Type == "lifecycle" {
			continue
		}
		for name := range rootsOf(block.Body) {
			found[name] = true
		}
	}
	return found
}

// roots are `var.x`, `local.x` and `type.name`; a variable of a `for` or of a dynamic block looks like none of these.
func roots(expression hclsyntax.Expression) map[string]bool {
	found := map[string]bool{}
	for _, traversal := range expression.Variables() {
		if len(traversal) < 2 {
			continue
		}
		attribute, ok := traversal[1].(hcl.TraverseAttr)
		root := traversal.RootName()
		if ok && (root == "var" || root == "local" || strings.HasPrefix(root, "google_")) {
			found[root+"."+attribute.Name] = true
		}
	}
	return found
}

func problem(where hcl.Range, format string, arguments ...any) hcl.Diagnostics {
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: fmt.Sprintf(format, arguments...), Subject: &where}}
}
