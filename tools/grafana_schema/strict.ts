// What a dashboard of ours must be for Grafana's compiler: Grafana's own types, with nothing left
// open. The published `Panel` takes any options and any query; here each panel type has those of
// its plugin, and whatever a plugin does not know is an error.
import type { Dashboard, DataSourceRef, FieldConfig, Panel, VariableModel } from '@grafana/schema';
import type * as gauge from '@grafana/schema/dist/esm/raw/composable/gauge/panelcfg/x/GaugePanelCfg_types.gen';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { Prometheus } from '@grafana/prometheus/dataquery';
import type { StandardPromVariableQuery } from '@grafana/prometheus/types';

// JSON has no enums: a member of one is written as its value.
type Plain<T> = T extends string
  ? `${T}`
  : T extends object
    ? { [K in keyof T]: Plain<T[K]> }
    : T;

type Fields<Custom> = Omit<FieldConfig, 'custom'> & { custom?: Custom };

type Query = Prometheus & { datasource: DataSourceRef; legendFormat: string };

type Seen = 'id' | 'title' | 'description' | 'gridPos' | 'datasource';

type Plugin<Options, Custom = never> = Required<Pick<Panel, Seen>> &
  Omit<Panel, Seen | 'type' | 'options' | 'fieldConfig' | 'targets'> & {
    options: Options;
    fieldConfig: { defaults: Fields<Custom>; overrides: never[] };
    targets: Query[];
  };

interface Plugins {
  timeseries: Plugin<timeseries.Options, timeseries.FieldConfig>;
  stat: Plugin<stat.Options>;
  gauge: Plugin<gauge.Options>;
  heatmap: Plugin<heatmap.Options, heatmap.FieldConfig>;
}

interface VariableQueries {
  query: StandardPromVariableQuery;
  datasource: string;
  textbox: string;
}

export type StrictPanel<Type extends keyof Plugins> = Plain<Plugins[Type] & { type: Type }>;

export type StrictVariable<Type extends keyof VariableQueries> = Plain<
  Omit<VariableModel, 'type' | 'query'> & { type: Type; query: VariableQueries[Type] }
>;

export type StrictFrame = Plain<Omit<Dashboard, 'panels' | 'templating'>>;
